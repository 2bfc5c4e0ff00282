// How native code of other modules talks on a link: pointers into the objects of cutset.link._ring, in capsules of
// these names. Whoever has one keeps the object alive, and is the only one who uses that end as long as `busy` is set.
#pragma once

#include <atomic>
#include <chrono>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "link/ring.h"

namespace cutset::link {

struct SenderEnd {
  static constexpr const char* kName = "cutset.link.SenderEnd";
  Sender* sender;
  std::atomic<bool>* busy;
};

struct ReceiverEnd {
  static constexpr const char* kName = "cutset.link.ReceiverEnd";
  Receiver* receiver;
  Patience* patience;
  std::atomic<bool>* busy;
};

struct PollerEnd {
  static constexpr const char* kName = "cutset.link.PollerEnd";
  Poller* poller;
  Patience* patience;
  std::atomic<bool>* busy;
};

// Two threads at once in one end would break it: that is refused.
class Turn {
 public:
  explicit Turn(std::atomic<bool>& busy) : busy_(busy), mine_(!busy_.exchange(true)) {
    if (!mine_) throw std::runtime_error("one end of a link is used by two threads at once");
  }
  // False where another thread has it.
  Turn(std::atomic<bool>& busy, std::try_to_lock_t) : busy_(busy), mine_(!busy_.exchange(true)) {}
  // Waits for native code of a hop, which sends while others may. It is soon done, unless its core was taken from it.
  static Turn behind_a_hop(std::atomic<bool>& busy) {
    for (int turns = 0; turns < kTurns + kNaps; ++turns) {
      if (!busy.exchange(true)) return Turn(busy, std::adopt_lock);
      if (turns < kTurns) {
        std::this_thread::yield();
      } else {
        std::this_thread::sleep_for(std::chrono::microseconds(100));
      }
    }
    return Turn(busy);
  }
  ~Turn() {
    if (mine_) busy_.store(false);
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  explicit operator bool() const { return mine_; }

 private:
  Turn(std::atomic<bool>& busy, std::adopt_lock_t) : busy_(busy), mine_(true) {}

  static constexpr int kTurns = 1000, kNaps = 10000;  // a second and more
  std::atomic<bool>& busy_;
  const bool mine_;
};

}  // namespace cutset::link
