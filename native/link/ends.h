// How native code of other modules talks on a link: pointers into the objects of cutset.link._ring, in capsules of
// these names. Whoever has one keeps the object alive, and is the only one who uses that end as long as `busy` is set.
#pragma once

#include <atomic>
#include <stdexcept>

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
  explicit Turn(std::atomic<bool>& busy) : busy_(busy) {
    if (busy_.exchange(true)) throw std::runtime_error("one end of a link is used by two threads at once");
  }
  ~Turn() { busy_.store(false); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  std::atomic<bool>& busy_;
};

}  // namespace cutset::link
