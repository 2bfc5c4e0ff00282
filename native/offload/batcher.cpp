#include "offload/batcher.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace cutset::offload {

Batcher::Batcher(std::uint64_t matrices, double window, std::size_t max_rows, std::size_t max_waiting)
    : matrices_(matrices), window_(window), max_rows_(max_rows), max_waiting_(max_waiting) {
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
  return std::all_of(clients_.begin(), clients_.end(), [](const Client& client) { return client.head() != nullptr; });
}

void Batcher::join(std::uint64_t name) {
  if (find(name)) return;
  Client made;
  made.name = name;
  if (!clients_.empty()) made.rows = clients_.front().rows;
  for (const Client& other : clients_) made.rows = std::min(made.rows, other.rows);
  clients_.push_back(std::move(made));
}

void Batcher::leave(std::uint64_t name) {
  clients_.erase(
      std::remove_if(clients_.begin(), clients_.end(), [=](const Client& client) { return client.name == name; }),
      clients_.end());
}

bool Batcher::has_room(std::uint64_t name) const {
  const Client* client = find(name);
  return !client || client->calls.size() < max_waiting_;
}

bool Batcher::add(std::unique_ptr<Call> call) {
  join(call->client);
  if (!has_room(call->client)) return false;
  find(call->client)->calls.push_back(std::move(call));
  return true;
}

void Batcher::answered(std::uint64_t name, double now) {
  if (Client* client = find(name)) client->answered = now;
}

double Batcher::wait(double now) const {
  std::size_t heads = 0;
  double last = 0, oldest = 0;  // answer to a client that is away; arrival
  bool away = false;
  for (const Client& client : clients_) {
    if (const Call* head = client.head()) {
      oldest = heads == 0 ? head->arrived : std::min(oldest, head->arrived);
      ++heads;
    } else {
      last = away ? std::max(last, client.answered) : client.answered;
      away = true;
    }
  }
  if (heads == 0) return kNothing;
  if (!away || heads >= max_rows_) return 0;
  const Key where = meeting(now);
  for (const Client& client : clients_) {
    if (client.head() && !(key(*client.head()) == where)) return 0;  // somebody has to catch up
  }
  // Not beyond the window of the call that waits longest, however many come and go.
  return std::max(0.0, std::min(last, oldest) + window_ - now);
}

Batcher::Key Batcher::meeting(double now) const {
  struct Company {
    Key key;
    std::size_t count;
    double first;
  };
  std::vector<Company> found;
  for (const Client& client : clients_) {
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

std::vector<std::unique_ptr<Call>> Batcher::take(double now) {
  std::vector<Client*> heads;
  for (Client& client : clients_) {
    if (client.head()) heads.push_back(&client);
  }
  std::vector<std::unique_ptr<Call>> batch;
  if (heads.empty()) return batch;
  const Call* oldest = heads.front()->head();
  for (const Client* client : heads) {
    if (client->head()->arrived < oldest->arrived) oldest = client->head();
  }
  Key chosen = key(*oldest);
  if (now - oldest->arrived <= kPatience) {
    const Key where = meeting(now);
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
    return a->rows != b->rows ? a->rows < b->rows : a->head()->arrived < b->head()->arrived;
  });
  std::size_t rows = 0;
  for (Client* client : heads) {
    const Call& call = *client->head();
    if (!batch.empty() && rows + call.rows > max_rows_) break;
    rows += call.rows;
    client->rows += call.rows;
    client->next = {(call.matrix + 1) % matrices_, call.masked};
    batch.push_back(std::move(client->calls.front()));
    client->calls.pop_front();
  }
  return batch;
}

}  // namespace cutset::offload
