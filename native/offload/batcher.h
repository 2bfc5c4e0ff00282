// Which waiting calls are multiplied together, and when: the twin of cutset.offload.accelerator.batcher, which
// documents the policy. Times are seconds of any monotonic clock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

namespace cutset::offload {

constexpr double kPatience = 0.2;       // seconds that a call may be overtaken by others
constexpr double kSlice = 0.005;        // seconds that one product takes, about, while several clients want some
constexpr double kHold = 0.01;          // seconds for which a client that is owed work is waited for
constexpr double kAloneSlices = 32;     // at once, while nobody else wants anything
constexpr double kMostSlices = 4;       // of a quantum
constexpr std::size_t kLeastRows = 16;  // that are never split
constexpr double kLeastWait = 1e-6;     // seconds
constexpr double kMostOwed = 0.1;       // seconds with which a newcomer may begin
constexpr std::size_t kMostOwing = 64;  // clients that left, of which that is kept
constexpr double kSpeed = 17179869184;  // rows times their cost a second, until that was measured

// A product that a client waits for.
struct Call {
  std::uint64_t client = 0;
  std::uint64_t number = 0;  // the client's own
  std::uint64_t matrix = 0;
  bool masked = false;
  std::size_t rows = 0;
  double arrived = 0;
  std::unique_ptr<std::uint32_t[]> room;  // the rows, one after another, in whole words
  std::size_t first = 0, count = 0;       // the rows that were taken last
  std::unique_ptr<std::uint32_t[]> z;     // (rows, outputs), where they are multiplied in several pieces
  double seconds = 0;                     // that its products took
  double charged = 0;                     // seconds, for the rows that were taken last: an estimate

  bool same(const Call& other) const { return matrix == other.matrix && masked == other.masked; }
  std::size_t taken() const { return first + count; }
  bool finished() const { return taken() == rows; }
};

class Batcher {
 public:
  // `costs`: of a row of each matrix; 1 where there are none.
  Batcher(std::uint64_t matrices, double window, std::size_t max_rows, std::size_t max_waiting,
          std::vector<std::uint64_t> costs = {});
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
  // Whether a call waits, is multiplied, or was answered so recently that it must have been sent again before.
  bool known(std::uint64_t client, std::uint64_t number, double now) const;
  // False where there is no room for it.
  bool add(std::shared_ptr<Call> call);
  void answered(std::uint64_t client, double now);
  // What is left of a call isn't wanted any more.
  void drop(std::uint64_t client, std::uint64_t number);
  // A client doesn't take its answers: none of its calls are taken until it does.
  void hold(std::uint64_t client, bool held);
  // A client waits for work of another kind too.
  void busy(std::uint64_t client, bool waits);
  // A client used this machine for other work, or for longer than it was charged for.
  void charge(std::uint64_t client, double seconds);
  bool may(std::uint64_t client, double now) const;
  double speed() const { return speed_; }
  void set_speed(double speed) { speed_ = speed; }
  std::uint64_t cost(std::uint64_t matrix) const { return matrix < costs_.size() ? costs_[matrix] : 1; }
  // Seconds for which another call is worth waiting for: 0 to multiply now, kNothing if nothing waits.
  static constexpr double kNothing = -1;
  double wait(double now);
  // The calls of the next product, with the rows that are taken of each; removed once all were.
  std::vector<std::shared_ptr<Call>> take(double now);

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
    std::deque<std::shared_ptr<Call>> calls;
    double used = 0;  // seconds of this machine so far
    double answered = -std::numeric_limits<double>::infinity();
    Key next;          // what it will want if it goes on
    double spent = 0;  // seconds that this machine had worked for all clients when it got its last answer
    bool held = false, busy = false;
    bool steady = false;  // its last call came while it was waited for
    bool many = false;    // rows, of the call that was taken last
    double owed = 0;      // seconds that one who left had used beyond what a newcomer begins with
    std::uint64_t last = std::numeric_limits<std::uint64_t>::max();  // the call that was taken last, all of it
    double arrived = 0;                                              // when it came

    Client() = default;
    Client(Client&&) = default;
    Client& operator=(Client&&) = default;

    Call* head() const { return calls.empty() ? nullptr : calls.front().get(); }
    bool waits() const { return !calls.empty() || busy; }
    // What it waits for, or had last if it waits for nothing, keeps the machine for a while.
    bool is_long() const { return calls.empty() ? busy || many : calls.front()->rows > kLeastRows; }
  };
  // Whose turn it is.
  struct Turn {
    double most = std::numeric_limits<double>::infinity();  // that a client may have used and get more now
    bool steady = false;                                    // those with many rows rest
    bool many = false;                                      // steady ones rest
    double length = 0;                                      // seconds, the quantum that counts

    bool rests(const Client& client) const {
      return (steady && client.is_long()) || (many && client.steady && !client.is_long());
    }
    bool allows(const Client& client) const { return !client.held && client.used <= most && !rests(client); }
  };

  const Client* find(std::uint64_t client) const;
  Client* find(std::uint64_t client);
  // Until when a client counts that was answered and doesn't ask: it may have asked while nobody heard it.
  double until(const Client& client) const { return client.answered + (spent_ - client.spent) + hold_; }
  static Key key(const Call& call) { return {call.matrix, call.masked}; }
  Key meeting(double now, const Turn& turn) const;
  bool contends(const Client& client, double now) const;
  double limit(double now) const;
  Turn turn(double now) const;
  Turn begin_turn(double now);
  // Those for whose sake calls of others wait, and seconds that each has used less than any of these.
  std::vector<std::pair<Client*, double>> waited_for(double since);
  void settle(double now);
  void forfeit(Client& client);
  std::size_t piece(std::uint64_t matrix, double now) const;

  std::uint64_t matrices_;
  double window_, hold_;
  std::size_t max_rows_, max_waiting_;
  std::vector<std::uint64_t> costs_;
  double speed_ = kSpeed;
  std::vector<double> owed_;     // by clients that left, in ascending order
  double spent_ = 0;             // seconds that this machine worked, in which nobody was heard
  double now_ = 0;               // as it was told last
  bool steady_ = false;          // steady clients have the machine, until they are a quantum ahead
  double idle_ = -1;             // since when nothing is multiplied, for clients that are owed work
  std::vector<Client> clients_;  // in the order in which they came
};

}  // namespace cutset::offload
