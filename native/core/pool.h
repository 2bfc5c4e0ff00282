// A fixed number of threads that share out the tasks of one loop at a time.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <type_traits>

namespace cutset {

// The caller is one of the threads. Threads start with the first loop and again after a fork. They wait actively for
// some tens of microseconds, giving way to whoever else wants the core, and then sleep.
//
// Results must not depend on which thread does which task. A loop inside a task runs in that task's thread; when
// several threads call one pool, one loop runs after the other, so the budget holds.
class ThreadPool {
 public:
  static constexpr int kMostThreads = 1024;

  explicit ThreadPool(int threads);  // std::invalid_argument unless 1 <= threads <= kMostThreads
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Calls body(task) for each task below `tasks`, in any order and thread; returns when all are done.
  template <class Body>
  void run(std::size_t tasks, const Body& body) {
    static_assert(std::is_nothrow_invocable_v<const Body&, std::size_t>, "exceptions don't cross threads");
    run(
        tasks, [](const void* context, std::size_t task) noexcept { (*static_cast<const Body*>(context))(task); },
        &body);
  }

 private:
  using Task = void (*)(const void* context, std::size_t task) noexcept;
  struct Crew;

  void run(std::size_t tasks, Task task, const void* context);
  Crew& crew();

  int threads_;
  std::atomic<Crew*> crew_{nullptr};
};

}  // namespace cutset
