// Where the time of a split run goes, as cutset.offload.client.parts counts it: laps of one clock.
#pragma once

#include <array>
#include <chrono>
#include <ctime>

namespace cutset::offload {

enum Part { kQuantise, kMask, kSerialise, kSend, kCheck, kWait, kAccelerator, kUnmask, kAttention, kOther, kParts };

class Laps {
 public:
  // Starts anew. `count_cpu`: of the calling thread's CPU too, which takes a while to ask for.
  void start(bool count_cpu) {
    count_cpu_ = count_cpu;
    wall.fill(0);
    cpu.fill(0);
    wall_ = now();
    if (count_cpu_) cpu_ = thread_time();
  }

  // What passed since the last lap was `part`; gives its seconds.
  double lap(Part part) {
    const double time = now(), passed = time - wall_;
    wall[part] += passed;
    wall_ = time;
    if (count_cpu_) {
      const double used = thread_time();
      cpu[part] += used - cpu_;
      cpu_ = used;
    }
    return passed;
  }

  std::array<double, kParts> wall{}, cpu{};

  static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }

 private:
  static double thread_time() {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  }

  double wall_ = 0, cpu_ = 0;
  bool count_cpu_ = false;
};

}  // namespace cutset::offload
