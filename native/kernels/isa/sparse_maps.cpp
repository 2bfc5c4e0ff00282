// What incremental inference does beside convolutions: pools, sums, activations, and what has changed.
#include <cstring>

#include "kernels/isa/simd_math.h"
#include "kernels/isa/sparse.h"

namespace cutset::CUTSET_ISA {

namespace {

template <class Function>
void each(std::size_t count, float* y, Function function) {
  for_each_vec(count, [&](auto get, auto put) { put(y, function(get(y))); });
}

template <class Function>
void pairs(std::size_t count, const float* a, const float* b, float* y, Function function) {
  for_each_vec(count, [&](auto get, auto put) { put(y, function(get(a), get(b))); });
}

inline Vec logistic(Vec x) {
  const Vec one = splat(1.0f);
  return div(one, add(one, exp(sub(splat(0.0f), x))));
}

// x limited to 0 .. top; what isn't a number stays that.
inline Vec clamp(Vec x, Vec top) { return smaller(top, larger(splat(0.0f), x)); }

// erf(x) to 2e-7, absolute: Abramowitz and Stegun, 7.1.26.
inline Vec erf(Vec x) {
  const Vec one = splat(1.0f), size = larger(x, sub(splat(0.0f), x));
  const Vec t = div(one, fma(size, splat(0.3275911f), one));
  Vec p = splat(1.061405429f);
  p = fma(p, t, splat(-1.453152027f));
  p = fma(p, t, splat(1.421413741f));
  p = fma(p, t, splat(-0.284496736f));
  p = fma(p, t, splat(0.254829592f));
  const Vec result = sub(one, mul(mul(p, t), exp(sub(splat(0.0f), mul(size, size)))));
  return sub(zero_below(x, splat(0.0f), add(result, result)), result);  // the sign of x
}

}  // namespace

void sparse_largest(const float* const* places, std::size_t count, std::size_t channels, float* y) {
  for_each_vec(channels, [&](auto get, auto put) {
    Vec most = get(places[0]);
    for (std::size_t p = 1; p < count; ++p) most = larger(get(places[p]), most);
    put(y, most);
  });
}

void sparse_mean(const float* const* places, std::size_t count, float factor, std::size_t channels, float* y) {
  const Vec times = splat(factor);
  for_each_vec(channels, [&](auto get, auto put) {
    Vec sum = get(places[0]);
    for (std::size_t p = 1; p < count; ++p) sum = add(sum, get(places[p]));
    put(y, mul(sum, times));
  });
}

void sparse_blend(const float* const* places, const float* weights, std::size_t count, std::size_t channels, float* y) {
  for_each_vec(channels, [&](auto get, auto put) {
    Vec sum = mul(get(places[0]), splat(weights[0]));
    for (std::size_t p = 1; p < count; ++p) sum = fma(get(places[p]), splat(weights[p]), sum);
    put(y, sum);
  });
}

void sparse_affine(const float* x, const float* scale, const float* shift, std::size_t channels, float* y) {
  for_each_vec(channels, [&](auto get, auto put) { put(y, fma(get(x), get(scale), get(shift))); });
}

void sparse_combine(Combine kind, const float* a, const float* b, std::size_t channels, float* y) {
  switch (kind) {
    case Combine::kAdd:
      return pairs(channels, a, b, y, [](Vec p, Vec q) { return add(p, q); });
    case Combine::kSub:
      return pairs(channels, a, b, y, [](Vec p, Vec q) { return sub(p, q); });
    case Combine::kMul:
      return pairs(channels, a, b, y, [](Vec p, Vec q) { return mul(p, q); });
    case Combine::kDiv:
      return pairs(channels, a, b, y, [](Vec p, Vec q) { return div(p, q); });
    case Combine::kMax:
      return pairs(channels, a, b, y, [](Vec p, Vec q) { return larger(p, q); });
    case Combine::kMin:
      return pairs(channels, a, b, y, [](Vec p, Vec q) { return smaller(p, q); });
  }
}

void sparse_activate(SparseActivation kind, float parameter, std::size_t count, float* y) {
  const Vec zero = splat(0.0f), one = splat(1.0f), half = splat(0.5f), limit = splat(parameter);
  switch (kind) {
    case SparseActivation::kNone:
      return;
    case SparseActivation::kRelu:
      return each(count, y, [=](Vec x) { return larger(zero, x); });
    case SparseActivation::kClamp:
      return each(count, y, [=](Vec x) { return clamp(x, limit); });
    case SparseActivation::kLeakyRelu:
      return each(count, y, [=](Vec x) { return fma(limit, smaller(zero, x), larger(zero, x)); });
    case SparseActivation::kSigmoid:
      return each(count, y, [](Vec x) { return logistic(x); });
    case SparseActivation::kTanh:
      return each(count, y, [](Vec x) { return tanh(x); });
    case SparseActivation::kSilu:
      return each(count, y, [](Vec x) { return mul(x, logistic(x)); });
    case SparseActivation::kGelu:
      return each(count, y, [=](Vec x) { return mul(mul(half, x), add(one, erf(mul(x, splat(0.70710678f))))); });
    case SparseActivation::kGeluTanh:
      return each(count, y, [=](Vec x) {
        const Vec inner = mul(splat(0.79788456f), fma(mul(splat(0.044715f), mul(x, x)), x, x));
        return mul(mul(half, x), add(one, tanh(inner)));
      });
    case SparseActivation::kHardSigmoid:
      return each(count, y, [=](Vec x) { return div(clamp(add(x, splat(3.0f)), splat(6.0f)), splat(6.0f)); });
    case SparseActivation::kHardSwish:
      return each(count, y, [=](Vec x) { return div(mul(x, clamp(add(x, splat(3.0f)), splat(6.0f))), splat(6.0f)); });
  }
}

bool sparse_settle(const float* fresh, float threshold, std::size_t channels, float* held) {
  bool differs = false;
  if (threshold == 0.0f) {
    differs = std::memcmp(fresh, held, channels * sizeof(float)) != 0;
  } else {
    const Vec limit = splat(threshold), zero = splat(0.0f), one = splat(1.0f);
    Vec found = zero;
    for_each_vec(channels, [&](auto get, auto) {
      const Vec off = sub(get(fresh), get(held));
      found = larger(found, zero_below(larger(off, sub(zero, off)), limit, one));
    });
    differs = max_lanes(found) > 0.0f;
  }
  if (differs) std::memcpy(held, fresh, channels * sizeof(float));
  return differs;
}

}  // namespace cutset::CUTSET_ISA
