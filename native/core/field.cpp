#include "core/field.h"

#include <algorithm>
#include <vector>

#include "core/split.h"
#include "kernels/table.h"

namespace cutset {

namespace {

// Work below this many elements isn't worth a second thread.
constexpr std::size_t kTooSmall = std::size_t{1} << 16;

// Rows a task, at most `most`: each task prepares the limbs of the vectors anew, which costs about as much as two rows.
std::size_t rows_of_task(const ThreadPool& pool, std::size_t rows, std::size_t columns, std::size_t most) {
  if (pool.threads() == 1 || rows * columns < kTooSmall) return most;
  const std::size_t tasks = std::size_t{2} * static_cast<std::size_t>(pool.threads());
  return std::clamp<std::size_t>((rows + tasks - 1) / tasks, std::min<std::size_t>(8, most), most);
}

auto dots_kernel(const std::int16_t*) { return kernels().field.dots_i16; }
auto dots_kernel(const std::int32_t*) { return kernels().field.dots_i32; }
auto dots_kernel(const std::uint32_t*) { return kernels().field.dots_u32; }

}  // namespace

void mask(ThreadPool& pool, const std::int16_t* q, const std::uint32_t* r, std::size_t n, std::uint32_t* out) {
  const auto kernel = kernels().field.mask;
  const std::size_t step = pool.threads() == 1 || n < kTooSmall ? n : kTooSmall / 4;
  if (n == 0) return;
  run_ranges(pool, n, step,
             [&](std::size_t first, std::size_t end) { kernel(q + first, r + first, end - first, out + first); });
}

template <class Integer>
void dots(ThreadPool& pool, const Integer* x, std::size_t rows, std::size_t depth, const std::uint32_t* v,
          std::size_t vectors, std::uint32_t* out) {
  const auto kernel = dots_kernel(x);
  if (rows == 0) return;
  run_ranges(pool, rows, rows_of_task(pool, rows, depth, 256), [&](std::size_t first, std::size_t end) {
    for (std::size_t i = 0; i < vectors; i += 2) {
      kernel(x + first * depth, end - first, depth, v + i * depth, std::min<std::size_t>(2, vectors - i),
             out + first * vectors + i, vectors);
    }
  });
}

template void dots(ThreadPool&, const std::int16_t*, std::size_t, std::size_t, const std::uint32_t*, std::size_t,
                   std::uint32_t*);
template void dots(ThreadPool&, const std::int32_t*, std::size_t, std::size_t, const std::uint32_t*, std::size_t,
                   std::uint32_t*);
template void dots(ThreadPool&, const std::uint32_t*, std::size_t, std::size_t, const std::uint32_t*, std::size_t,
                   std::uint32_t*);

void project(ThreadPool& pool, const std::int8_t* weight, std::size_t outputs, std::size_t depth,
             const std::uint32_t* s, std::size_t vectors, std::uint32_t* out) {
  const auto kernel = kernels().field.project;
  constexpr std::size_t kStep = 512;  // columns: whole lines of the weights
  run_ranges(pool, depth, kStep, [&](std::size_t first, std::size_t end) {
    for (std::size_t i = 0; i < vectors; i += 2) {
      kernel(weight, outputs, depth, first, end, s + i * outputs, std::min<std::size_t>(2, vectors - i),
             out + i * depth);
    }
  });
}

Verdict settle(ThreadPool& pool, const SettleJob& whole) {
  Verdict verdict{Verdict::kGood, 0, 0};
  if (whole.rows == 0) return verdict;
  const auto kernel = kernels().field.settle;
  const std::size_t step = rows_of_task(pool, whole.rows, whole.outputs, kSettleRows);
  std::vector<Verdict> verdicts((whole.rows + step - 1) / step);
  run_ranges(pool, whole.rows, step, [&](std::size_t first, std::size_t end) {
    SettleJob job = whole;
    job.reply += first * job.outputs;
    if (job.pad) job.pad += first * job.outputs;
    job.row_scales += first;
    if (job.expected) job.expected += first * job.checks;
    job.rows = end - first;
    job.out += first * job.outputs;
    Verdict& found = verdicts[first / step] = kernel(job);
    found.row += first;
  });
  for (const Verdict& found : verdicts) {
    if (found.code == Verdict::kGood) continue;
    std::fill(whole.out, whole.out + whole.rows * whole.outputs, 0.0f);
    return found;
  }
  return verdict;
}

}  // namespace cutset
