// What adapters add to a product, computed while the product is: the narrow halves beside the packing of its rows, the
// wide ones on each piece of its outputs while that is in the cache.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "core/adapter.h"
#include "core/memory.h"
#include "core/pool.h"
#include "kernels/glue.h"

namespace cutset {

// What a row gets depends on it and its adapter alone.
class Addition {
 public:
  // To the product y (rows, outputs) of x (rows, inputs) at the site `index`. What is given must stay until it is done.
  // False where there is nothing to add.
  bool begin(const std::vector<AdaptedRows>& groups, std::size_t index, const float* x, std::size_t inputs, float* y,
             std::size_t outputs, int threads);

  // What must be done before `add`, in any order.
  std::size_t tasks() const { return tasks_.size(); }
  void prepare(std::size_t task) const noexcept;

  // Adds to a piece of y that is there.
  void add(std::size_t row, std::size_t rows, std::size_t output, std::size_t outputs) const noexcept;
  // The same, shared out.
  void add_all(ThreadPool& pool, std::size_t output, std::size_t outputs) const;

  // All of it, where all of y is there.
  void run(ThreadPool& pool) const;

 private:
  // down . x of a group's rows: (rows, width), the parts beside each other in whole panels.
  struct Group {
    const std::vector<std::size_t>* rows;
    const std::vector<LowRank>* parts;
    std::size_t width;
    float* narrow;
  };
  struct Task {
    std::size_t dot, dots, rows;
    ThinKind kind;
    std::size_t stride;  // between rows of what is narrow
  };

  void add_block(const Group& group, std::size_t begin, std::size_t count, const float* x);
  void share_out(std::size_t first_dot, std::size_t rows, ThinKind kind, std::size_t stride, std::size_t most);

  std::size_t inputs_ = 0, outputs_ = 0, rows_ = 0;
  float* y_ = nullptr;
  std::vector<Group> groups_;
  std::vector<ThinDot> dots_;
  std::vector<Task> tasks_;
  std::vector<ThinDot> singles_[3];  // rows on their own, by kind
  Workspace narrow_, gathered_;
};

// How a product takes part in an addition.
struct Added {
  const Addition* addition = nullptr;
  std::size_t output = 0;  // where the product's outputs begin among those that are added to
  bool prepared = false;

  void finish(std::size_t row, std::size_t rows, std::size_t from, std::size_t outputs) const noexcept {
    if (addition) addition->add(row, rows, output + from, outputs);
  }
};

// body(task) for each task, beside what must be done before the addition.
template <class Body>
void run_beside(ThreadPool& pool, const Added& added, std::size_t tasks, const Body& body) {
  const std::size_t before = added.addition && !added.prepared ? added.addition->tasks() : 0;
  pool.run(before + tasks, [&](std::size_t task) noexcept {
    if (task < before) {
      added.addition->prepare(task);
    } else {
      body(task - before);
    }
  });
}

// body(first, end) for ranges of at most `step` of the numbers below n, in the same way.
template <class Body>
void run_ranges_beside(ThreadPool& pool, const Added& added, std::size_t n, std::size_t step, const Body& body) {
  run_beside(pool, added, (n + step - 1) / step, [&](std::size_t task) noexcept {
    const std::size_t first = task * step;
    body(first, std::min(n, first + step));
  });
}

}  // namespace cutset
