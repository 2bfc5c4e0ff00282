#include <atomic>
#include <chrono>
#include <cmath>
#include <stdexcept>
#include <string>

#include "core/linear.h"
#include "core/split.h"
#include "kernels/table.h"

namespace cutset {

void quantize_rows(ThreadPool& pool, const float* x, std::size_t rows, std::size_t depth, int bits, std::int16_t* q,
                   float* scales) {
  if (bits < PackedI8::kLeastBits || bits > PackedI8::kMostBits) {
    throw std::invalid_argument("bits must be between 8 and 12, not " + std::to_string(bits));
  }
  if (rows == 0) return;
  if (depth == 0) throw std::invalid_argument("rows must not be empty");
  const LinearKernels& kernels = cutset::kernels().linear;
  run_ranges(pool, rows, rows_a_task(pool, rows, depth), [&](std::size_t first, std::size_t end) {
    kernels.quantize(x + first * depth, end - first, depth, bits, q + first * depth, scales + first);
  });
}

void quantize_weight(ThreadPool& pool, const float* weight, std::size_t outputs, std::size_t depth, std::int8_t* q,
                     float* scales) {
  if (outputs == 0 || depth == 0) throw std::invalid_argument("a weight matrix must not be empty");
  const std::size_t step = rows_a_task(pool, outputs, depth);
  const LinearKernels& kernels = cutset::kernels().linear;
  const std::size_t parts = (outputs + step - 1) / step;
  Buffer rows(checked_product(checked_product(parts, depth), sizeof(std::int16_t)));
  run_ranges(pool, outputs, step, [&](std::size_t first, std::size_t end) {
    std::int16_t* row = rows.as<std::int16_t>() + first / step * depth;
    for (std::size_t r = first; r < end; ++r) {
      kernels.quantize(weight + r * depth, 1, depth, 8, row, scales + r);
      for (std::size_t k = 0; k < depth; ++k) q[r * depth + k] = static_cast<std::int8_t>(row[k]);
    }
  });
  for (std::size_t r = 0; r < outputs; ++r) {
    if (std::isnan(scales[r])) {
      throw std::invalid_argument("row " + std::to_string(r) + " of the weights holds a NaN or an infinity");
    }
  }
}

double read_seconds(ThreadPool& pool, const void* data, std::size_t bytes) {
  constexpr std::size_t kPiece = std::size_t{1} << 18;
  const LinearKernels& kernels = cutset::kernels().linear;
  std::atomic<std::uint64_t> mixed{0};
  const auto start = std::chrono::steady_clock::now();
  run_ranges(pool, bytes / 512 * 512, kPiece, [&](std::size_t first, std::size_t end) {
    mixed.fetch_xor(kernels.read(static_cast<const char*>(data) + first, end - first), std::memory_order_relaxed);
  });
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace cutset
