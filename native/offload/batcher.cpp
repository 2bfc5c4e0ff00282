#include "offload/batcher.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

namespace cutset::offload {

Batcher::Batcher(std::uint64_t matrices, double window, std::size_t max_rows, std::size_t max_waiting,
                 std::vector<std::uint64_t> costs)
    : matrices_(matrices),
      window_(window),
      hold_(std::max(window, kHold)),
      max_rows_(max_rows),
      max_waiting_(max_waiting),
      costs_(std::move(costs)) {
  if (matrices == 0 || max_rows == 0 || max_waiting == 0) throw std::invalid_argument("sizes must be at least 1");
}

const Batcher::Client* Batcher::find(std::uint64_t client) const {
  for (const Client& one : clients_) {
    if (one.name == client) return &one;
  }
  return nullptr;
}

Batcher::Client* Batcher::find(std::uint64_t client) {
  return const_cast<Client*>(static_cast<const Batcher*>(this)->find(client));
}

std::size_t Batcher::waiting() const {
  std::size_t count = 0;
  for (const Client& client : clients_) count += client.calls.size();
  return count;
}

bool Batcher::complete() const {
  return std::all_of(clients_.begin(), clients_.end(),
                     [](const Client& client) { return client.held || client.head() != nullptr; });
}

void Batcher::join(std::uint64_t name) {
  if (find(name)) return;
  Client made;
  made.name = name;
  if (!clients_.empty()) made.used = clients_.front().used;
  for (const Client& other : clients_) made.used = std::min(made.used, other.used);
  if (!owed_.empty()) {
    made.owed = owed_.back();
    owed_.pop_back();
  }
  clients_.push_back(std::move(made));
}

void Batcher::leave(std::uint64_t name) {
  const auto gone =
      std::find_if(clients_.begin(), clients_.end(), [=](const Client& client) { return client.name == name; });
  if (gone == clients_.end()) return;
  const double used = gone->used;
  clients_.erase(gone);
  if (clients_.empty()) owed_.clear();
  const double most = limit(now_), owed = used + 2 * kSlice - most;
  if (!std::isfinite(most) || owed <= 0) return;
  const double kept = std::min(owed, kMostOwed);
  owed_.insert(std::upper_bound(owed_.begin(), owed_.end(), kept), kept);
  if (owed_.size() > kMostOwing) owed_.erase(owed_.begin());
}

// Who was away or took no answers has saved nothing up, and a newcomer may owe something.
void Batcher::forfeit(Client& client) {
  const double most = limit(now_);
  if (std::isfinite(most)) client.used = std::max(client.used, most - 2 * kSlice + client.owed);
  client.owed = 0;
}

bool Batcher::has_room(std::uint64_t name) const {
  const Client* client = find(name);
  return !client || client->calls.size() < max_waiting_;
}

bool Batcher::known(std::uint64_t name, std::uint64_t number, double now) const {
  const Client* client = find(name);
  if (!client) return false;
  for (const auto& call : client->calls) {
    if (call->number == number) return true;
  }
  return number == client->last &&
         (client->answered < client->arrived || now - client->answered <= client->answered - client->arrived);
}

bool Batcher::add(std::shared_ptr<Call> call) {
  join(call->client);
  if (!has_room(call->client)) return false;
  now_ = call->arrived;
  settle(call->arrived);
  Client& client = *find(call->client);
  client.steady = contends(client, call->arrived);
  if (!client.steady) forfeit(client);
  client.calls.push_back(std::move(call));
  return true;
}

void Batcher::answered(std::uint64_t name, double now) {
  now_ = now;
  if (Client* client = find(name)) {
    client->answered = now;
    client->spent = spent_;
  }
}

void Batcher::drop(std::uint64_t name, std::uint64_t number) {
  Client* client = find(name);
  if (client && client->head() && client->head()->number == number) client->calls.pop_front();
}

void Batcher::hold(std::uint64_t name, bool held) {
  Client* client = find(name);
  if (!client || client->held == held) return;
  if (!held) forfeit(*client);
  client->held = held;
}

void Batcher::busy(std::uint64_t name, bool waits) {
  Client* client = find(name);
  if (!client) return;
  if (waits && !contends(*client, now_)) forfeit(*client);
  client->busy = waits;
}

void Batcher::charge(std::uint64_t name, double seconds) {
  spent_ += seconds;
  if (Client* client = find(name)) client->used += seconds;
}

bool Batcher::may(std::uint64_t name, double now) const {
  const Client* client = find(name);
  return client && turn(now).allows(*client);
}

// Whether a client wants something, or will in a moment if it goes on.
bool Batcher::contends(const Client& client, double now) const {
  return !client.held && (client.head() || client.busy || now <= until(client));
}

// The longest that a client may have used this machine and get more: a slice more than the contender with least.
double Batcher::limit(double now) const {
  double found = std::numeric_limits<double>::infinity();
  for (const Client& client : clients_) {
    if (contends(client, now)) found = std::min(found, client.used + kSlice);
  }
  return found;
}

// Seconds for which steady clients have the machine, then each of those who wait with many rows.
static double quantum(double waiting) {
  return kSlice * std::max(1.0, std::min({(waiting + 3) / 2, kMostSlices, kPatience / (waiting * kSlice)}));
}

// Whose turn it is, if nobody's ends before.
Batcher::Turn Batcher::turn(double now) const {
  const double none = std::numeric_limits<double>::infinity();
  double steady = none, many = none;  // what each of these used that has least
  std::size_t waiting = 0;
  for (const Client& client : clients_) {
    if (!contends(client, now)) continue;
    if (!client.is_long()) {
      if (client.steady) steady = std::min(steady, client.used);
    } else if (client.waits()) {
      many = std::min(many, client.used);
      ++waiting;
    }
  }
  Turn found;
  if (waiting == 0 || !std::isfinite(steady)) {
    found.most = limit(now);
    return found;
  }
  found.length = quantum(static_cast<double>(waiting));
  found.steady = steady_ ? steady - many < found.length : steady - many <= 0;
  found.many = !found.steady;
  for (const Client& client : clients_) {
    if (contends(client, now) && !found.rests(client)) found.most = std::min(found.most, client.used + kSlice);
  }
  return found;
}

Batcher::Turn Batcher::begin_turn(double now) {
  const Turn found = turn(now);
  steady_ = found.steady;
  return found;
}

std::vector<std::pair<Batcher::Client*, double>> Batcher::waited_for(double since) {
  const Turn whose = turn(since);
  const double more = whose.steady ? whose.length : 0;  // until those go on who rest
  double ahead = std::numeric_limits<double>::infinity();
  for (const Client& client : clients_) {
    if (client.head() && !client.held) ahead = std::min(ahead, client.used + (whose.rests(client) ? more : 0));
  }
  std::vector<std::pair<Client*, double>> found;
  for (Client& client : clients_) {
    if (!client.waits() && !whose.rests(client) && contends(client, since) && client.used < ahead) {
      found.emplace_back(&client, ahead - client.used);
    }
  }
  return found;
}

// Charges the time in which nothing was multiplied to those for whom that was, until they are level: beyond that they
// would be ahead of whoever waited for them, and the two would wait for each other in turns.
void Batcher::settle(double now) {
  const double since = std::exchange(idle_, -1);
  if (since < 0 || now <= since) return;
  const auto charged = waited_for(since);
  for (const auto& [client, left] : charged) {
    client->used += std::min((now - since) / static_cast<double>(charged.size()), left);
  }
}

double Batcher::wait(double now) {
  now_ = now;
  settle(now);
  std::size_t heads = 0;
  double last = 0, oldest = 0;  // answer to a client that is away; arrival
  bool away = false, behind = false;
  const Turn whose = begin_turn(now);
  for (const Client& client : clients_) {
    if (client.held) continue;
    if (const Call* head = client.head()) {
      if (!whose.allows(client)) {
        behind = true;
        continue;
      }
      oldest = heads == 0 ? head->arrived : std::min(oldest, head->arrived);
      ++heads;
    } else {
      last = away ? std::max(last, client.answered) : client.answered;
      away = true;
    }
  }
  if (heads == 0) {
    if (!behind) return kNothing;
    idle_ = now;
    double end = now + hold_;  // until the first of those who are owed work is given up
    for (const Client& client : clients_) {
      if (!client.head() && !client.busy && contends(client, now)) end = std::min(end, until(client));
    }
    const auto owed = waited_for(now);
    const double near = whose.steady ? 0 : kSlice;
    for (const auto& one : owed) {  // until the first of them has had so much that somebody else may go on
      if (one.second > near) end = std::min(end, now + (one.second - near) * static_cast<double>(owed.size()));
    }
    return std::max(kLeastWait, end - now);
  }
  if (!away || heads >= max_rows_) return 0;
  const Key where = meeting(now, whose);
  for (const Client& client : clients_) {
    if (client.head() && whose.allows(client) && !(key(*client.head()) == where)) return 0;  // has to catch up
  }
  // Not beyond the window of the call that waits longest, however many come and go.
  const double left = std::min(last, oldest) + window_ - now;
  if (left > 0) idle_ = now;
  return std::max(0.0, left);
}

Batcher::Key Batcher::meeting(double now, const Turn& turn) const {
  struct Company {
    Key key;
    std::size_t count;
    double first;
  };
  std::vector<Company> found;
  for (const Client& client : clients_) {
    if (client.held || turn.rests(client)) continue;
    const Call* head = client.head();
    const double since = head ? head->arrived : client.answered;
    if (!head && !(now - since <= window_)) continue;
    const Key wanted = head ? key(*head) : client.next;
    auto place =
        std::find_if(found.begin(), found.end(), [&](const Company& company) { return company.key == wanted; });
    if (place == found.end()) {
      found.push_back({wanted, 1, std::min(now, since)});
    } else {
      ++place->count;
      place->first = std::min(place->first, since);
    }
  }
  const auto best = std::max_element(found.begin(), found.end(), [](const Company& a, const Company& b) {
    return a.count != b.count ? a.count < b.count : a.first > b.first;
  });
  return best == found.end() ? Key() : best->key;
}

// How many rows a product with a matrix may have, so that nobody waits for long.
std::size_t Batcher::piece(std::uint64_t matrix, double now) const {
  const auto active = [&](const Client& client) {
    return !client.held && (client.head() || client.busy || now - client.answered <= kPatience);
  };
  const bool alone = std::count_if(clients_.begin(), clients_.end(), active) <= 1;
  const double rows =
      speed_ * (alone ? kSlice * kAloneSlices : kSlice) / static_cast<double>(std::max<std::uint64_t>(1, cost(matrix)));
  if (rows >= static_cast<double>(max_rows_)) return max_rows_;
  return std::min(max_rows_, std::max(kLeastRows, static_cast<std::size_t>(rows)));
}

std::vector<std::shared_ptr<Call>> Batcher::take(double now) {
  settle(now);
  std::vector<Client*> heads;
  const Turn whose = begin_turn(now);
  for (Client& client : clients_) {
    if (client.head() && whose.allows(client)) heads.push_back(&client);
  }
  std::vector<std::shared_ptr<Call>> batch;
  if (heads.empty()) return batch;
  const Call* oldest = heads.front()->head();
  for (const Client* client : heads) {
    if (client->head()->arrived < oldest->arrived) oldest = client->head();
  }
  Key chosen = key(*oldest);
  if (now - oldest->arrived <= kPatience) {
    const Key where = meeting(now, whose);
    bool behind = false;
    for (const Client* client : heads) {
      const Key one = key(*client->head());
      if (one == where) continue;
      // Who has the fewest matrices to go joins soonest.
      const auto to_go = [&](const Key& from) {
        return (where.matrix + matrices_ - from.matrix % matrices_) % matrices_;
      };
      const std::uint64_t far = to_go(one), least = to_go(chosen);
      if (!behind || far < least || (far == least && one < chosen)) chosen = one;
      behind = true;
    }
    if (!behind) chosen = where;
  }
  heads.erase(std::remove_if(heads.begin(), heads.end(),
                             [&](const Client* client) { return !(key(*client->head()) == chosen); }),
              heads.end());
  std::stable_sort(heads.begin(), heads.end(), [](const Client* a, const Client* b) {
    return a->used != b->used ? a->used < b->used : a->head()->arrived < b->head()->arrived;
  });
  std::size_t rows = 0;
  const std::size_t most = piece(chosen.matrix, now);
  for (Client* client : heads) {
    Call& call = *client->head();
    const std::size_t left = call.rows - call.taken();
    if (!batch.empty() && rows + left > most) break;
    call.first = call.taken();
    call.count = std::min(left, most);
    rows += call.count;
    call.charged = static_cast<double>(call.count * cost(call.matrix)) / speed_;
    client->used += call.charged;
    spent_ += call.charged;
    client->many = call.rows > kLeastRows;
    client->next = {(call.matrix + 1) % matrices_, call.masked};
    batch.push_back(client->calls.front());
    if (call.finished()) {
      client->last = call.number;
      client->arrived = call.arrived;
      client->calls.pop_front();
    }
  }
  return batch;
}

}  // namespace cutset::offload
