#include "offload/server.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <new>
#include <stdexcept>
#include <utility>

namespace cutset::offload {

Server::Server(std::vector<const PackedI8*> matrices, ThreadPool& pool, Batcher& batcher, link::PollerEnd poller,
               Rules rules)
    : matrices_(std::move(matrices)),
      pool_(pool),
      batcher_(batcher),
      poller_(poller),
      rules_(rules),
      warmed_(rules.warm_bytes) {}

double Server::now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Server::Peer* Server::peer(std::uint64_t name) {
  for (Peer& one : peers_) {
    if (one.client == name) return &one;
  }
  return nullptr;
}

void Server::greet(std::uint64_t name, link::SenderEnd sender, link::ReceiverEnd receiver) {
  forget(name);
  peers_.push_back({name, sender, receiver, {}});
  batcher_.join(name);
}

void Server::forget(std::uint64_t name) {
  peers_.erase(std::remove_if(peers_.begin(), peers_.end(), [=](const Peer& one) { return one.client == name; }),
               peers_.end());
  batcher_.leave(name);
}

Server::Counts Server::counted() {
  Counts found{std::exchange(products_, 0), std::exchange(shared_rows_, 0), {}};
  for (Peer& one : peers_) {
    if (one.counters.bytes_in > 0 || one.counters.calls > 0) {
      found.clients.push_back({one.client, std::exchange(one.counters, Counters())});
    }
  }
  return found;
}

Server::TurnEnd Server::turn(double seconds, double idle) {
  end_ = TurnEnd();
  const Event event = serve(seconds, idle);
  end_.event = event;
  return std::exchange(end_, TurnEnd());
}

Server::Event Server::serve(double seconds, double idle) {
  const link::Turn polling(*poller_.busy);
  const double end = now() + seconds;
  for (;;) {
    while (given_ < batch_.size()) {
      const Call& call = *batch_[given_++];
      const std::size_t outputs = matrices_[call.matrix]->outputs();
      const std::uint32_t* z = call.z ? call.z.get() : z_ + row_ * outputs;
      row_ += call.count;
      if (!call.finished()) continue;
      const Event event = deliver(call, z);
      if (event != Event::kNothing) return event;
    }
    batch_.clear();
    if (!apart_.empty()) {
      batch_.push_back(std::move(apart_.front()));
      apart_.pop_front();
    } else {
      double time = now();
      if (time >= end) return Event::kNothing;
      const double wait = batcher_.wait(time);
      Event event = Event::kNothing;
      if (wait != 0) {
        bool took = idle > 0 && warm(event);  // for whoever is waited for, too
        const double until = wait == Batcher::kNothing ? end : std::min(time + wait, end);
        const double longest = std::min(std::max(0.0, until - now()), idle);
        if (event == Event::kNothing && !took) took = take(longest, event);
        const bool nothing = event == Event::kNothing && !took && longest == idle;
        for (std::size_t i = 0; event == Event::kNothing && took && i < most_messages() && !batcher_.complete(); ++i) {
          took = take(0, event);  // whatever else is there
        }
        if (event != Event::kNothing || nothing) return event;
        time = now();
        if (batcher_.wait(time) != 0) continue;
      } else if (!owed_) {  // whoever has work waiting must not keep others from being heard
        for (std::size_t i = 0; i < most_messages() && take(0, event); ++i) {
        }
        owed_ = event != Event::kNothing;
        if (owed_) return event;
        time = now();
      }
      batch_ = batcher_.take(time);
      owed_ = false;
    }
    given_ = row_ = 0;
    const Event event = multiply();
    if (event != Event::kNothing) return event;
  }
}

// While a message is waited for: reads what will be multiplied next, as far as caches keep it. True once one came.
bool Server::warm(Event& event) {
  while (warmed_ < rules_.warm_bytes) {
    if (take(0, event)) return true;
    if (event != Event::kNothing) return false;
    const std::size_t end = matrices_[next_]->warm(warmed_, rules_.warm_step);
    if (end <= warmed_) break;
    warmed_ = end;
  }
  warmed_ = rules_.warm_bytes;
  return false;
}

// One call, if one is there. What else came is an event.
bool Server::take(double seconds, Event& event) {
  link::Poller& poller = *poller_.poller;
  std::uint64_t& client = end_.client;
  link::Record& record = end_.record;
  if (!poller.poll(client, record) && (seconds <= 0 || !poller.wait(client, record, seconds, *poller_.patience))) {
    return false;
  }
  Peer* from = peer(client);
  if (from && record.kind == link::kWhole && queued(*from)) return true;
  event = Event::kRecord;
  return false;
}

// False where the record is no call that is taken as it is.
bool Server::queued(Peer& from) {
  const link::Record& record = end_.record;
  const char* frame = from.receiver.receiver->data(record);
  Multiply wanted;
  const std::size_t begin = read_front(frame, record.length, wanted);
  if (begin == 0 || wanted.matrix >= matrices_.size() || wanted.depth != matrices_[wanted.matrix]->depth() ||
      wanted.rows > rules_.max_rows) {
    return false;
  }
  const double time = now();
  const std::size_t bytes = wanted.bytes();
  if (batcher_.known(from.client, wanted.call, time)) {  // sent again, because its answer takes long
    from.receiver.receiver->release(record.end);
    from.counters.bytes_in += bytes;
    return true;
  }
  if (!batcher_.has_room(from.client)) return false;
  auto call = std::make_shared<Call>();
  call->client = from.client;
  call->number = wanted.call;
  call->matrix = wanted.matrix;
  call->masked = wanted.masked;
  call->rows = wanted.rows;
  call->arrived = time;
  // A copy: the client can still write to memory that is shared, and needs it for its next call.
  call->room.reset(new (std::nothrow) std::uint32_t[(bytes + 3) / 4]);
  if (!call->room) return false;  // the twin says so
  std::memcpy(call->room.get(), frame + begin, bytes);
  batcher_.add(std::move(call));
  from.receiver.receiver->release(record.end);
  from.counters.bytes_in += bytes;
  batcher_.charge(from.client, now() - time);
  return true;
}

// One product for all calls of the batch. Those that can be are answered.
Server::Event Server::multiply() {
  if (batch_.empty()) return Event::kNothing;
  Call& first = *batch_.front();
  const PackedI8& matrix = *matrices_[first.matrix];
  const double started = now();
  rows_ = 0;
  for (const auto& call : batch_) rows_ += call->count;
  const bool alone = batch_.size() == 1;
  Peer* to = alone && first.count == first.rows ? peer(first.client) : nullptr;
  Answer answer = answer_to(first);
  char* room = to ? room_for(*to, answer) : nullptr;  // straight into the ring
  try {
    for (const auto& call : batch_) {
      if (call->count < call->rows && !call->z) {
        call->z.reset(new std::uint32_t[checked_product(call->rows, matrix.outputs())]);
      }
    }
    std::uint32_t* z = nullptr;
    if (room) {
      z = static_cast<std::uint32_t*>(static_cast<void*>(room));
    } else if (alone && first.z) {
      z = first.z.get() + first.first * matrix.outputs();
    } else {
      z = static_cast<std::uint32_t*>(
          outputs_.take(checked_product(checked_product(rows_, matrix.outputs()), sizeof(std::uint32_t))));
    }
    compute(z);
    z_ = z;
    for (const auto& call : batch_) {
      if (call->z && !alone) {
        std::memcpy(call->z.get() + call->first * matrix.outputs(), z,
                    call->count * matrix.outputs() * sizeof(std::uint32_t));
      }
      z += call->count * matrix.outputs();
    }
  } catch (const std::invalid_argument& error) {
    return failed(error.what());
  } catch (const std::bad_alloc&) {
    return failed("there is no memory for this product now");
  }
  next_ = (first.matrix + 1) % matrices_.size();
  warmed_ = 0;
  count(now() - started);
  if (room) {
    given_ = 1;
    answer.seconds = first.seconds;
    send(*to, answer);
  }
  return Event::kNothing;
}

// Somebody's numbers are wrong, or it wants too much: each alone, so that the others don't suffer.
Server::Event Server::failed(const char* why) {
  const bool alone = batch_.size() == 1;
  const std::uint64_t client = batch_.front()->client, number = batch_.front()->number;
  if (alone) {
    batcher_.drop(client, number);
    batcher_.answered(client, now());
    end_.client = client;
    end_.call = number;
    end_.reason = why;
  } else {
    for (auto& call : batch_) apart_.push_back(std::move(call));
  }
  batch_.clear();
  return alone ? Event::kRefusal : Event::kNothing;
}

// Who used what of a product that took `seconds`, and how fast this machine is.
void Server::count(double seconds) {
  products_ += 1;
  if (batch_.size() > 1) shared_rows_ += rows_;
  for (const auto& call : batch_) {
    const double own = seconds * static_cast<double>(call->count) / static_cast<double>(rows_);
    call->seconds += own;
    batcher_.charge(call->client, own - call->charged);
    if (Peer* from = peer(call->client)) {
      from->counters.calls += call->finished();
      from->counters.rows += call->count;
      from->counters.busy += own;
    }
  }
  if (rows_ >= kLeastRows && seconds > 0) {
    const double found = static_cast<double>(rows_ * batcher_.cost(batch_.front()->matrix)) / seconds;
    batcher_.set_speed(batcher_.speed() + (found - batcher_.speed()) / 8);
  }
}

void Server::compute(std::uint32_t* z) {
  const Call& first = *batch_.front();
  const PackedI8& matrix = *matrices_[first.matrix];
  const std::size_t size = matrix.depth() * (first.masked ? 4 : 2);
  const auto piece = [&](const Call& call) {
    return reinterpret_cast<const char*>(call.room.get()) + call.first * size;
  };
  const char* given = piece(first);
  if (batch_.size() > 1) {
    char* rows = static_cast<char*>(inputs_.take(checked_product(rows_, size)));
    given = rows;
    for (const auto& call : batch_) {
      std::memcpy(rows, piece(*call), call->count * size);
      rows += call->count * size;
    }
  }
  const auto* x = reinterpret_cast<const std::uint32_t*>(given);
  if (first.masked) {
    matrix.residues(pool_, x, rows_, z, workspace_);
  } else {
    matrix.integers(pool_, reinterpret_cast<const std::int16_t*>(x), rows_, matrix.most_bits(),
                    reinterpret_cast<std::int32_t*>(z), workspace_);
  }
}

// Where the array of an answer goes in the ring; null if there is no room now. Nothing is sent yet.
char* Server::room_for(Peer& to, const Answer& what) {
  char front[kMostFront];
  const std::size_t begin = write_front(what, front);
  link::Sender& sender = *to.sender.sender;
  try {
    if (begin + what.bytes() > sender.largest() || sender.receiver_closed() || !sender.claim(begin + what.bytes())) {
      return nullptr;
    }
  } catch (const link::Broken&) {
    return nullptr;  // the twin meets it too
  }
  return sender.data() + begin;
}

// Sends what lies in the room that was found for it.
void Server::send(Peer& to, const Answer& what) {
  char front[kMostFront];
  const std::size_t begin = write_front(what, front);
  std::memcpy(to.sender.sender->data(), front, begin);
  to.sender.sender->commit(link::kWhole, begin + what.bytes());
  batcher_.answered(to.client, now());
  to.counters.bytes_out += what.bytes();
}

// What is said about a product is about the client's own rows: those of others are their own business.
Answer Server::answer_to(const Call& call) const {
  const std::uint64_t company = batch_.size() == 1 ? kAlone : batcher_.clients() < rules_.cores ? kSome : kCrowd;
  return {call.number, call.seconds, company, call.masked, call.rows, matrices_[call.matrix]->outputs()};
}

Server::Event Server::deliver(const Call& call, const std::uint32_t* z) {
  Peer* to = peer(call.client);
  if (!to) return Event::kNothing;  // it has gone
  const Answer answer = answer_to(call);
  if (char* room = room_for(*to, answer)) {
    const double started = now();
    std::memcpy(room, z, answer.bytes());
    send(*to, answer);
    batcher_.charge(call.client, now() - started);
    return Event::kNothing;
  }
  end_.client = call.client;
  end_.call = call.number;
  end_.answer = answer;
  end_.product = z;
  return Event::kProduct;
}

}  // namespace cutset::offload
