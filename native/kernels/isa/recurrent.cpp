// Layers that remember in a state: short convolutions and the gated delta rule, a row at a time.
#include "kernels/isa/glue.h"
#include "kernels/isa/simd_math.h"

namespace cutset::CUTSET_ISA {

void multiply(const float* a, const float* b, std::size_t count, float* out) {
  for_each_vec(count, [&](auto get, auto put) { put(out, mul(get(a), get(b))); });
}

void sigmoid_mul(float* x, const float* gate, std::size_t count) {
  const Vec zero = splat(0.0f);
  const Vec one = splat(1.0f);
  for_each_vec(count, [&](auto get, auto put) { put(x, div(get(x), add(one, exp(sub(zero, get(gate)))))); });
}

void short_conv(const float* const* rows, std::size_t taps, const float* weight, std::size_t stride, const float* bias,
                std::size_t cols, float* out) {
  for_each_vec(cols, [&](auto get, auto put) {
    Vec sum = bias ? get(bias) : splat(0.0f);
    for (std::size_t j = 0; j < taps; ++j) sum = fma(get(rows[j]), get(weight + j * stride), sum);
    put(out, sum);
  });
}

// Yang et al. 2024, arXiv:2412.06464. A vector of columns at a time: each of them depends on its own column of S alone.
void delta_rule(float* state, const float* q, const float* k, const float* v, float kept, float beta,
                std::size_t key_dim, std::size_t value_dim, float* out) {
  const Vec keep = splat(kept);
  const Vec write = splat(beta);
  for_each_vec(value_dim, [&](auto get, auto put) {
    Vec known = splat(0.0f);
    for (std::size_t i = 0; i < key_dim; ++i) known = fma(get(state + i * value_dim), splat(k[i]), known);
    const Vec delta = mul(sub(get(v), mul(known, keep)), write);
    Vec sum = splat(0.0f);
    for (std::size_t i = 0; i < key_dim; ++i) {
      float* row = state + i * value_dim;
      const Vec now = fma(splat(k[i]), delta, mul(get(row), keep));
      put(row, now);
      sum = fma(now, splat(q[i]), sum);
    }
    put(out, sum);
  });
}

}  // namespace cutset::CUTSET_ISA
