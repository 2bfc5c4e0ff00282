#include "offload/server.h"

#include <algorithm>
#include <chrono>
#include <cstring>
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
  peers_.push_back({name, sender, receiver});
  batcher_.join(name);
}

void Server::forget(std::uint64_t name) {
  peers_.erase(std::remove_if(peers_.begin(), peers_.end(), [=](const Peer& one) { return one.client == name; }),
               peers_.end());
  batcher_.leave(name);
}

Server::Event Server::turn(double seconds) {
  const link::Turn polling(*poller_.busy);
  const double end = now() + seconds;
  for (;;) {
    while (given_ < batch_.size()) {
      const Call& call = *batch_[given_++];
      const std::uint32_t* z = z_ + row_ * matrices_[call.matrix]->outputs();
      row_ += call.rows;
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
      if (wait != 0) {
        Event event = Event::kNothing;
        bool took = wait == Batcher::kNothing && warm(event);
        if (event == Event::kNothing && !took) {
          took = take(wait == Batcher::kNothing ? end - time : std::min(wait, end - time), event);
        }
        while (event == Event::kNothing && took && !batcher_.complete())
          took = take(0, event);  // whatever else is there
        if (event != Event::kNothing) return event;
        time = now();
        if (batcher_.wait(time) != 0) continue;
      }
      batch_ = batcher_.take(time);
    }
    given_ = row_ = 0;
    const Event event = multiply();
    if (event != Event::kNothing) return event;
  }
}

// While nobody waits: reads what will be multiplied next, as far as caches keep it. True once a message came.
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
  const char* frame = from.receiver.receiver->data(record);
  Multiply wanted;
  const std::size_t begin = read_front(frame, record.length, wanted);
  if (begin == 0 || wanted.matrix >= matrices_.size() || wanted.depth != matrices_[wanted.matrix]->depth() ||
      wanted.rows > rules_.max_rows) {
    return false;
  }
  auto call = std::make_unique<Call>();
  call->client = from.client;
  call->number = wanted.call;
  call->matrix = wanted.matrix;
  call->masked = wanted.masked;
  call->rows = wanted.rows;
  call->arrived = now();
  if (!batcher_.has_room(from.client)) return false;
  // A copy: the client can still write to memory that is shared, and needs it for its next call.
  const std::size_t bytes = wanted.bytes();
  call->room.reset(new std::uint32_t[(bytes + 3) / 4]);
  std::memcpy(call->room.get(), frame + begin, bytes);
  batcher_.add(std::move(call));
  from.receiver.receiver->release(record.end);
  counters.bytes_in += bytes;
  return true;
}

// One product for all calls of the batch. Those that can be are answered.
Server::Event Server::multiply() {
  if (batch_.empty()) return Event::kNothing;
  const Call& first = *batch_.front();
  const PackedI8& matrix = *matrices_[first.matrix];
  const double started = now();
  rows_ = 0;
  for (const auto& call : batch_) rows_ += call->rows;
  const bool alone = batch_.size() == 1;
  Peer* to = alone ? peer(first.client) : nullptr;
  answer = {first.number, 0, rows_, first.masked, rows_, matrix.outputs()};
  char* room = to ? room_for(*to, answer) : nullptr;  // straight into the ring
  try {
    std::uint32_t* z = static_cast<std::uint32_t*>(
        room ? static_cast<void*>(room)
             : outputs_.take(checked_product(checked_product(rows_, matrix.outputs()), sizeof(std::uint32_t))));
    compute(z);
    z_ = z;
  } catch (const std::invalid_argument& error) {
    // Somebody's numbers are wrong: each alone, so that the others don't suffer.
    client = first.client;
    number = first.number;
    reason = error.what();
    if (!alone) {
      for (auto& call : batch_) apart_.push_back(std::move(call));
    }
    batch_.clear();
    return alone ? Event::kRefusal : Event::kNothing;
  }
  next_ = (first.matrix + 1) % matrices_.size();
  warmed_ = 0;
  seconds_ = now() - started;
  counters.calls += batch_.size();
  counters.rows += rows_;
  counters.products += 1;
  counters.shared_rows += alone ? 0 : rows_;
  counters.busy += seconds_;
  if (room) {
    given_ = 1;
    answer.seconds = seconds_;
    send(*to, answer);
  }
  return Event::kNothing;
}

void Server::compute(std::uint32_t* z) {
  const Call& first = *batch_.front();
  const PackedI8& matrix = *matrices_[first.matrix];
  const std::uint32_t* x = first.room.get();
  if (batch_.size() > 1) {
    const std::size_t size = matrix.depth() * (first.masked ? 4 : 2);
    char* rows = static_cast<char*>(inputs_.take(checked_product(rows_, size)));
    x = reinterpret_cast<const std::uint32_t*>(rows);
    for (const auto& call : batch_) {
      std::memcpy(rows, call->room.get(), call->rows * size);
      rows += call->rows * size;
    }
  }
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
  counters.bytes_out += what.bytes();
}

Server::Event Server::deliver(const Call& call, const std::uint32_t* z) {
  Peer* to = peer(call.client);
  if (!to) return Event::kNothing;  // it has gone
  answer = {call.number, seconds_, rows_, call.masked, call.rows, matrices_[call.matrix]->outputs()};
  if (char* room = room_for(*to, answer)) {
    std::memcpy(room, z, answer.bytes());
    send(*to, answer);
    return Event::kNothing;
  }
  client = call.client;
  product = z;
  return Event::kProduct;
}

}  // namespace cutset::offload
