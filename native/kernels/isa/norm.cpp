// RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467).
#include "kernels/isa/glue.h"
#include "kernels/isa/simd.h"

namespace cutset::CUTSET_ISA {

void rms_norm(const float* x, const float* gain, float eps, std::size_t rows, std::size_t cols, float* out) {
  const std::size_t whole = cols / kLanes * kLanes;
  for (std::size_t r = 0; r < rows; ++r, x += cols, out += cols) {
    Vec squares = splat(0.0f);
    for (std::size_t c = 0; c < whole; c += kLanes) squares = fma(load(x + c), load(x + c), squares);
    float sum = sum_lanes(squares);
    for (std::size_t c = whole; c < cols; ++c) sum += x[c] * x[c];
    const float scale = 1.0f / __builtin_sqrtf(sum / static_cast<float>(cols) + eps);
    for (std::size_t c = 0; c < whole; c += kLanes) {
      store(out + c, mul(mul(load(x + c), splat(scale)), load(gain + c)));
    }
    for (std::size_t c = whole; c < cols; ++c) out[c] = x[c] * scale * gain[c];
  }
}

}  // namespace cutset::CUTSET_ISA
