// The kernels between two linears: norms, rotary embedding, attention, activation.
#pragma once

#include <cstddef>

namespace cutset {

struct GlueKernels {
  // out[r] = x[r] / sqrt(mean(x[r]^2) + eps) * gain;  x, out: (rows, cols), gain: (cols)
  void (*rms_norm)(const float* x, const float* gain, float eps, std::size_t rows, std::size_t cols, float* out);
};

}  // namespace cutset
