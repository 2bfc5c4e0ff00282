// What happens to a row on its own: gathering, additions, the gated activation.
#include "kernels/isa/glue.h"
#include "kernels/isa/simd_math.h"

namespace cutset::CUTSET_ISA {

void embedding(const float* table, const std::int32_t* ids, std::size_t rows, std::size_t cols, float* out) {
  for (std::size_t r = 0; r < rows; ++r) {
    __builtin_memcpy(out + r * cols, table + static_cast<std::size_t>(ids[r]) * cols, cols * sizeof(float));
  }
}

void add_bias(float* x, const float* bias, std::size_t rows, std::size_t cols) {
  for (std::size_t r = 0; r < rows; ++r, x += cols) {
    for_each_vec(cols, [&](auto get, auto put) { put(x, add(get(x), get(bias))); });
  }
}

void scale(float* x, float factor, std::size_t count) {
  for_each_vec(count, [&](auto get, auto put) { put(x, mul(get(x), splat(factor))); });
}

void softcap(float* x, float cap, std::size_t count) {
  const Vec limit = splat(cap);
  for_each_vec(count, [&](auto get, auto put) { put(x, mul(limit, tanh(div(get(x), limit)))); });
}

void scaled_add(float* out, float weight, const float* x, std::size_t cols) {
  for_each_vec(cols, [&](auto get, auto put) { put(out, fma(splat(weight), get(x), get(out))); });
}

namespace {

// out = gate * sigmoid(slope(gate)) * up
template <class Slope>
inline void gated(const float* x, std::size_t rows, std::size_t cols, float* out, Slope slope) {
  const Vec zero = splat(0.0f);
  const Vec one = splat(1.0f);
  for (std::size_t r = 0; r < rows; ++r, x += 2 * cols, out += cols) {
    for_each_vec(cols, [&](auto get, auto put) {
      const Vec gate = get(x);
      put(out, mul(div(gate, add(one, exp(sub(zero, slope(gate))))), get(x + cols)));
    });
  }
}

}  // namespace

// SwiGLU (Shazeer 2020, arXiv:2002.05202).
void silu_mul(const float* x, std::size_t rows, std::size_t cols, float* out) {
  gated(x, rows, cols, out, [](Vec gate) { return gate; });
}

// GeGLU (the same) with GELU's approximation by tanh (Hendrycks and Gimpel 2016, arXiv:1606.08415):
// (1 + tanh(u)) / 2 = sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3).
void gelu_mul(const float* x, std::size_t rows, std::size_t cols, float* out) {
  gated(x, rows, cols, out,
        [](Vec gate) { return mul(gate, fma(mul(gate, gate), splat(0.0713548162726f), splat(1.59576912161f))); });
}

namespace {

// 1 / 2 erfc(a / sqrt(2)) for a >= 0: the share of a normal distribution above a, to 3e-7 of itself. The polynomial in
// 1 / (1 + a / 2) was fitted to erfc(a / sqrt(2)) e^(a^2 / 2) / 2; what rounding takes from a^2 is made good.
inline Vec tail(Vec a) {
  const Vec t = div(splat(1.0f), fma(a, splat(0.5f), splat(1.0f)));
  Vec p = splat(-4.236968e-2f);
  p = fma(p, t, splat(0.28272828f));
  p = fma(p, t, splat(-0.80023766f));
  p = fma(p, t, splat(1.2062994f));
  p = fma(p, t, splat(-0.9558747f));
  p = fma(p, t, splat(0.29328132f));
  p = fma(p, t, splat(-4.819407e-2f));
  p = fma(p, t, splat(0.16731074f));
  p = fma(p, t, splat(0.19745873f));
  p = fma(p, t, splat(0.19960125f));
  p = fma(p, t, splat(-3.6351735e-6f));
  const Vec square = mul(a, a);
  const Vec lost = fma(a, a, sub(splat(0.0f), square));
  return mul(mul(p, exp(mul(square, splat(-0.5f)))), fma(lost, splat(-0.5f), splat(1.0f)));
}

}  // namespace

// GeGLU with GELU itself, x times the share of a normal distribution below x.
void gelu_erf_mul(const float* x, std::size_t rows, std::size_t cols, float* out) {
  const Vec zero = splat(0.0f);
  const Vec most = splat(14.0f);  // beyond it all is 0 or 1
  for (std::size_t r = 0; r < rows; ++r, x += 2 * cols, out += cols) {
    for_each_vec(cols, [&](auto get, auto put) {
      const Vec gate = get(x);
      const Vec above = tail(smaller(larger(gate, sub(zero, gate)), most));
      const Vec below = add(above, zero_below(gate, zero, fma(above, splat(-2.0f), splat(1.0f))));
      put(out, mul(mul(gate, below), get(x + cols)));
    });
  }
}

// max(gate, 0), or its square, times up.
void relu_mul(const float* x, bool squared, std::size_t rows, std::size_t cols, float* out) {
  const Vec zero = splat(0.0f);
  for (std::size_t r = 0; r < rows; ++r, x += 2 * cols, out += cols) {
    for_each_vec(cols, [&](auto get, auto put) {
      const Vec gate = zero_below(get(x), zero, get(x));
      put(out, mul(squared ? mul(gate, gate) : gate, get(x + cols)));
    });
  }
}

// The SwiGLU of gpt-oss (OpenAI 2025, arXiv:2508.10925).
void clamped_mul(const float* x, float limit, float alpha, std::size_t rows, std::size_t cols, float* out) {
  const Vec most = splat(limit);
  const Vec least = splat(-limit);
  const Vec one = splat(1.0f);
  const Vec slope = splat(-alpha);
  for (std::size_t r = 0; r < rows; ++r, x += 2 * cols, out += cols) {
    for_each_vec(cols, [&](auto get, auto put) {
      const Vec gate = smaller(get(x), most);
      const Vec up = larger(smaller(get(x + cols), most), least);
      const Vec glu = div(gate, add(one, exp(mul(slope, gate))));
      put(out, mul(add(up, one), glu));
    });
  }
}

void exp(const float* x, std::size_t count, float* out) {
  for_each_vec(count, [&](auto get, auto put) { put(out, exp(get(x))); });
}

}  // namespace cutset::CUTSET_ISA
