#include <cerrno>
#include <chrono>
#include <climits>
#include <ctime>
#include <thread>

#include "link/ring.h"

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace cutset::link {

namespace {

constexpr double kPause = 10e-6;   // seconds awake before the core is offered to others
constexpr double kTaken = 100e-6;  // seconds between two looks, which show that others need this core
constexpr double kNap = 50e-6;
constexpr int kTurnsPerLook = 16;  // at the clock

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

inline void pause_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

timespec span(double seconds) {
  timespec time;
  time.tv_sec = static_cast<std::time_t>(seconds);
  time.tv_nsec = static_cast<long>((seconds - static_cast<double>(time.tv_sec)) * 1e9);
  return time;
}

#if defined(__linux__)
// The bell lies in shared memory, so the futex isn't a private one.
long futex(std::atomic<std::uint32_t>& word, int operation, std::uint32_t value, const timespec* timeout) {
  return syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), operation, value, timeout, nullptr, 0);
}
#endif

}  // namespace

void ring(Bell& bell) {
  // The sleeper writes `sleeping` and then looks; who rings has written and then looks here. One of them sees.
  if (bell.sleeping.load(std::memory_order_seq_cst) == 0) return;
  bell.sleeping.store(0, std::memory_order_seq_cst);
  bell.count.fetch_add(1, std::memory_order_seq_cst);
#if defined(__linux__)
  futex(bell.count, FUTEX_WAKE, INT_MAX, nullptr);
#endif
}

Waiting::Waiting(Bell& bell, double seconds, Patience patience) : bell_(bell), patience_(patience) {
  const double start = now();
  deadline_ = start + (seconds < kSlice ? seconds : kSlice);
  awake_until_ = start + patience.spin;
  yield_from_ = start + kPause;
  looked_ = start;
}

bool Waiting::spinning() {
  if (patience_.spin <= 0) {
    over_ = now() >= deadline_;
    return over_;
  }
  pause_core();
  if (++turns_ % kTurnsPerLook) return true;
  const double time = now();
  if (time >= deadline_) {
    over_ = true;
    return true;
  }
  if (patience_.yields && time - looked_ > kTaken) awake_until_ = time;
  looked_ = time;
  if (time >= awake_until_) return false;
  if (time >= yield_from_) std::this_thread::yield();
  return true;
}

void Waiting::park() {
  bell_.sleeping.store(1, std::memory_order_seq_cst);
  seen_ = bell_.count.load(std::memory_order_seq_cst);
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

void Waiting::sleep() {
  const double left = deadline_ - now();
  if (left <= 0) {
    over_ = true;
    return;
  }
#if defined(__linux__)
  if (!patience_.naps) {
    const timespec time = span(left);
    // A signal: Python shall see it.
    if (futex(bell_.count, FUTEX_WAIT, seen_, &time) != 0 && errno == EINTR) over_ = true;
    return;
  }
#endif
  const timespec time = span(left < kNap ? left : kNap);
  if (nanosleep(&time, nullptr) != 0) over_ = true;
}

void Waiting::unpark() { bell_.sleeping.store(0, std::memory_order_relaxed); }

}  // namespace cutset::link
