#include "core/pool.h"

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace cutset {

namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kSpin = std::chrono::microseconds(5);    // waiting on a core that may be needed elsewhere
constexpr auto kYield = std::chrono::microseconds(60);  // in all, before sleep

// The high half of a ticket is the number of its loop, the low half the next task.
constexpr std::uint64_t kClosed = 0xFFFFFFFFu;
constexpr std::size_t kMostTasks = 0x7FFFFFFF;

// Rises in the child of a fork: the threads of the parent's crews don't exist there.
std::atomic<std::uint32_t> forks{0};

void watch_forks() {
#if defined(__unix__) || defined(__APPLE__)
  static const int once = pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
  static_cast<void>(once);
#endif
}

thread_local bool inside_task = false;

inline void pause_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// True as soon as ready() is, false when it wasn't for kYield.
template <class Ready>
bool spin_until(const Ready& ready) {
  for (int i = 0; i < 8; ++i) {
    if (ready()) return true;
    pause_core();
  }
  const Clock::time_point start = Clock::now();
  for (;;) {
    for (int i = 0; i < 8; ++i) {
      if (ready()) return true;
      pause_core();
    }
    const Clock::duration waited = Clock::now() - start;
    if (waited > kYield) return ready();
    if (waited > kSpin) std::this_thread::yield();
  }
}

}  // namespace

struct ThreadPool::Crew {
  std::uint32_t born = forks.load(std::memory_order_relaxed);
  std::mutex turn;  // held by the caller whose loop runs

  // The loop at hand. A worker reads these after the ticket and then draws from the ticket: had the loop ended in
  // between, the ticket would be closed and the draw would fail, so what it read is what it draws for.
  std::atomic<Task> task{nullptr};
  std::atomic<const void*> context{nullptr};
  std::atomic<std::uint32_t> count{0};
  alignas(64) std::atomic<std::uint64_t> ticket{kClosed};
  alignas(64) std::atomic<std::uint32_t> done{0};

  // The slow way: sleeping and waking.
  alignas(64) std::mutex door;
  std::condition_variable work, finished;
  std::atomic<int> sleepers{0};
  std::atomic<bool> caller_sleeps{false};
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;

  explicit Crew(int workers) {
    try {
      for (int i = 0; i < workers; ++i) threads.emplace_back([this] { serve(); });
    } catch (const std::system_error&) {
      // Fewer threads than the budget allows: the caller does what is left.
    }
  }

  ~Crew() {
    stop.store(true);
    {
      std::lock_guard<std::mutex> lock(door);
      work.notify_all();
    }
    for (std::thread& thread : threads) thread.join();
  }

  static std::uint64_t loop_of(std::uint64_t drawn) { return drawn >> 32; }

  // Does tasks of the given loop until none is left.
  void help(std::uint64_t loop) {
    const Task body = task.load(std::memory_order_acquire);
    const void* what = context.load(std::memory_order_acquire);
    const std::uint32_t tasks = count.load(std::memory_order_acquire);
    std::uint32_t mine = 0;
    std::uint64_t drawn = ticket.load(std::memory_order_acquire);
    while (loop_of(drawn) == loop && static_cast<std::uint32_t>(drawn) < tasks) {
      if (!ticket.compare_exchange_weak(drawn, drawn + 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
        continue;
      }
      body(what, static_cast<std::uint32_t>(drawn));
      ++mine;
      drawn = ticket.load(std::memory_order_acquire);
    }
    if (mine && done.fetch_add(mine) + mine == tasks && caller_sleeps.load()) {
      std::lock_guard<std::mutex> lock(door);
      finished.notify_one();
    }
  }

  void serve() {
    inside_task = true;
    std::uint64_t seen = 0;
    const auto called = [&] { return loop_of(ticket.load()) != seen || stop.load(); };
    for (;;) {
      if (!spin_until(called)) {
        std::unique_lock<std::mutex> lock(door);
        sleepers.fetch_add(1);
        work.wait(lock, called);
        sleepers.fetch_sub(1);
      }
      if (stop.load()) return;
      seen = loop_of(ticket.load(std::memory_order_acquire));
      help(seen);
    }
  }

  void lead(std::size_t tasks, Task body, const void* what) {
    std::lock_guard<std::mutex> lock(turn);
    // Released, so that whoever sees these sees that the last loop is closed.
    task.store(body, std::memory_order_release);
    context.store(what, std::memory_order_release);
    count.store(static_cast<std::uint32_t>(tasks), std::memory_order_release);
    done.store(0, std::memory_order_relaxed);
    const std::uint64_t loop = (loop_of(ticket.load(std::memory_order_relaxed)) + 1) & 0xFFFFFFFFu;
    ticket.store(loop << 32);
    if (sleepers.load() > 0) {
      std::lock_guard<std::mutex> wake(door);
      work.notify_all();
    }
    inside_task = true;
    help(loop);
    inside_task = false;
    const auto complete = [&] { return done.load() == tasks; };
    if (!spin_until(complete)) {
      std::unique_lock<std::mutex> sleep(door);
      caller_sleeps.store(true);
      finished.wait(sleep, complete);
      caller_sleeps.store(false);
    }
    ticket.store(loop << 32 | kClosed);
  }
};

ThreadPool::ThreadPool(int threads) : threads_(threads) {
  if (threads < 1 || threads > kMostThreads) throw std::invalid_argument("threads must be between 1 and 1024");
  watch_forks();
}

ThreadPool::~ThreadPool() {
  Crew* crew = crew_.load();
  // After a fork the threads to be joined are the parent's: the crew's memory is let go, its state can't be trusted.
  if (crew && crew->born == forks.load()) delete crew;
}

ThreadPool::Crew& ThreadPool::crew() {
  Crew* current = crew_.load(std::memory_order_acquire);
  while (!current || current->born != forks.load(std::memory_order_relaxed)) {
    auto fresh = std::make_unique<Crew>(threads_ - 1);
    if (crew_.compare_exchange_strong(current, fresh.get())) return *fresh.release();
  }
  return *current;
}

void ThreadPool::run(std::size_t tasks, Task task, const void* context) {
  if (threads_ == 1 || tasks <= 1 || inside_task || tasks > kMostTasks) {
    for (std::size_t i = 0; i < tasks; ++i) task(context, i);
    return;
  }
  crew().lead(tasks, task, context);
}

}  // namespace cutset
