// How a product is cut into tasks: blocks of rows times groups of panels.
#pragma once

#include <algorithm>
#include <cstddef>

#include "core/pool.h"
#include "kernels/linear.h"

namespace cutset {

struct Split {
  std::size_t rows, panels;              // of one task, at most
  std::size_t row_blocks, panel_groups;  // tasks = row_blocks * panel_groups

  std::size_t tasks() const { return row_blocks * panel_groups; }
};

// `least_rows`: fewer rows a task would waste the kernel. `most_rows`: more would not stay in the cache.
// `panels_together`: a task has a multiple of so many.
inline Split split_product(const ThreadPool& pool, std::size_t rows, std::size_t panels, std::size_t depth,
                           std::size_t least_rows, std::size_t most_rows, std::size_t panels_together = 1) {
  Split split{};
  const std::size_t units = (panels + panels_together - 1) / panels_together;
  // Below this a second thread costs more than it brings.
  constexpr std::size_t kTooSmall = std::size_t{1} << 17;
  const bool alone = pool.threads() == 1 || rows * panels * kPanel * depth < kTooSmall;
  // Some tasks for each thread, so that one that is held up doesn't hold up all.
  const std::size_t wanted = alone ? 1 : std::size_t{8} * static_cast<std::size_t>(pool.threads());
  split.row_blocks = (rows + most_rows - 1) / most_rows;
  split.panel_groups = std::min(units, (wanted + split.row_blocks - 1) / split.row_blocks);
  while (split.row_blocks * split.panel_groups < wanted && rows / (2 * split.row_blocks) >= least_rows) {
    split.row_blocks *= 2;
  }
  split.rows = (rows + split.row_blocks - 1) / split.row_blocks;
  split.row_blocks = (rows + split.rows - 1) / split.rows;
  split.panels = (units + split.panel_groups - 1) / split.panel_groups * panels_together;
  split.panel_groups = (panels + split.panels - 1) / split.panels;
  return split;
}

// Rows by which small work for each row (packing, quantising) is shared out.
inline std::size_t rows_a_task(const ThreadPool& pool, std::size_t rows, std::size_t depth) {
  constexpr std::size_t kElements = std::size_t{1} << 14;
  if (pool.threads() == 1) return rows;
  return std::max<std::size_t>(1, kElements / depth);
}

// body(first, end) for ranges of at most `step` of the numbers below n.
template <class Body>
void run_ranges(ThreadPool& pool, std::size_t n, std::size_t step, const Body& body) {
  pool.run((n + step - 1) / step, [&](std::size_t task) noexcept {
    const std::size_t first = task * step;
    body(first, std::min(n, first + step));
  });
}

}  // namespace cutset
