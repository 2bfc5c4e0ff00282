// RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467).
#include "kernels/isa/glue.h"
#include "kernels/isa/simd_math.h"

namespace cutset::CUTSET_ISA {

namespace {

// Four sums side by side, so that the additions needn't wait for each other.
float sum_of_squares(const float* x, std::size_t cols) {
  Vec sums[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
  std::size_t c = 0;
  for (; c + 4 * kLanes <= cols; c += 4 * kLanes) {
    for (std::size_t i = 0; i < 4; ++i) {
      const Vec v = load(x + c + i * kLanes);
      sums[i] = fma(v, v, sums[i]);
    }
  }
  for_each_vec(cols - c, [&](auto get, auto) {
    const Vec v = get(x + c);
    sums[0] = fma(v, v, sums[0]);
  });
  return sum_lanes(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
}

void norm_row(const float* x, const float* gain, float eps, std::size_t cols, float* out) {
  const Vec scale = splat(1.0f / __builtin_sqrtf(sum_of_squares(x, cols) / static_cast<float>(cols) + eps));
  for_each_vec(cols, [&](auto get, auto put) { put(out, mul(mul(get(x), scale), get(gain))); });
}

}  // namespace

void rms_norm(const float* x, const float* gain, float eps, std::size_t rows, std::size_t cols, float* out) {
  for (std::size_t r = 0; r < rows; ++r) norm_row(x + r * cols, gain, eps, cols, out + r * cols);
}

void add_rms_norm(float* x, const float* delta, const float* gain, float eps, std::size_t rows, std::size_t cols,
                  float* out) {
  for (std::size_t r = 0; r < rows; ++r, x += cols, delta += cols, out += cols) {
    for_each_vec(cols, [&](auto get, auto put) { put(x, add(get(x), get(delta))); });
    norm_row(x, gain, eps, cols, out);
  }
}

}  // namespace cutset::CUTSET_ISA
