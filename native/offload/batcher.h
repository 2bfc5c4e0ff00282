// Which waiting calls are multiplied together, and when: the twin of cutset.offload.accelerator.batcher, which
// documents the policy. Times are seconds of any monotonic clock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <vector>

namespace cutset::offload {

constexpr double kPatience = 0.2;  // seconds that a call may be overtaken by others

// A product that a client waits for.
struct Call {
  std::uint64_t client = 0;
  std::uint64_t number = 0;  // the client's own
  std::uint64_t matrix = 0;
  bool masked = false;
  std::size_t rows = 0;
  double arrived = 0;
  std::unique_ptr<std::uint32_t[]> room;  // the rows, one after another, in whole words

  bool same(const Call& other) const { return matrix == other.matrix && masked == other.masked; }
};

class Batcher {
 public:
  Batcher(std::uint64_t matrices, double window, std::size_t max_rows, std::size_t max_waiting);
  Batcher(const Batcher&) = delete;
  Batcher& operator=(const Batcher&) = delete;

  std::size_t clients() const { return clients_.size(); }
  std::size_t waiting() const;
  // Every client waits for something: nobody else can bring company.
  bool complete() const;

  void join(std::uint64_t client);
  void leave(std::uint64_t client);
  // Whether a client may have another call waiting.
  bool has_room(std::uint64_t client) const;
  // False where it may not.
  bool add(std::unique_ptr<Call> call);
  void answered(std::uint64_t client, double now);
  // Seconds for which another call is worth waiting for: 0 to multiply now, kNothing if nothing waits.
  static constexpr double kNothing = -1;
  double wait(double now) const;
  // The calls of the next product, removed.
  std::vector<std::unique_ptr<Call>> take(double now);

 private:
  struct Key {
    std::uint64_t matrix = 0;
    bool masked = false;
    bool operator==(const Key& other) const { return matrix == other.matrix && masked == other.masked; }
    bool operator<(const Key& other) const {
      return matrix != other.matrix ? matrix < other.matrix : masked < other.masked;
    }
  };
  struct Client {
    std::uint64_t name = 0;
    std::deque<std::unique_ptr<Call>> calls;
    std::uint64_t rows = 0;  // multiplied so far
    double answered = -std::numeric_limits<double>::infinity();
    Key next;  // what it will want if it goes on

    Client() = default;
    Client(Client&&) = default;
    Client& operator=(Client&&) = default;

    const Call* head() const { return calls.empty() ? nullptr : calls.front().get(); }
  };

  const Client* find(std::uint64_t client) const;
  Client* find(std::uint64_t client);
  static Key key(const Call& call) { return {call.matrix, call.masked}; }
  Key meeting(double now) const;

  std::uint64_t matrices_;
  double window_;
  std::size_t max_rows_, max_waiting_;
  std::vector<Client> clients_;  // in the order in which they came
};

}  // namespace cutset::offload
