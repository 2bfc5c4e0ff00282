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

namespace {

// The tokens of a task for kWide vectors of columns, or where `rest` isn't 0 for that many columns. Each column depends
// on its own column of S alone; several at a time, for each is one long chain of multiply-adds, and all tokens of these
// before the next ones, for they stay in the nearest cache.
template <std::size_t kWide>
void delta_columns(const DeltaRuleTask& task, std::size_t column, std::size_t rest, float* states, std::size_t width) {
  const auto get = [rest](const float* p) { return rest ? load_part(p, rest) : load(p); };
  const auto put = [rest](float* p, Vec v) { rest ? store_part(p, v, rest) : store(p, v); };
  for (std::size_t row = 0; row < task.rows; ++row) {
    const float* q = task.q + row * task.stride;
    const float* k = task.k + row * task.stride;
    const float* v = task.v + row * task.stride + column;
    const Vec keep = splat(task.kept[row * task.gate_stride]);
    const Vec write = splat(task.beta[row * task.gate_stride]);
    Vec known[kWide];
    for (std::size_t w = 0; w < kWide; ++w) known[w] = splat(0.0f);
    for (std::size_t i = 0; i < task.key_dim; ++i) {
      const Vec key = splat(k[i]);
#pragma GCC unroll 4
      for (std::size_t w = 0; w < kWide; ++w) known[w] = fma(get(states + i * width + w * kLanes), key, known[w]);
    }
    Vec delta[kWide], sum[kWide];
#pragma GCC unroll 4
    for (std::size_t w = 0; w < kWide; ++w) {
      delta[w] = mul(sub(get(v + w * kLanes), mul(known[w], keep)), write);
      sum[w] = splat(0.0f);
    }
    for (std::size_t i = 0; i < task.key_dim; ++i) {
      const Vec key = splat(k[i]);
      const Vec query = splat(q[i]);
#pragma GCC unroll 4
      for (std::size_t w = 0; w < kWide; ++w) {
        float* at = states + i * width + w * kLanes;
        const Vec now = fma(key, delta[w], mul(get(at), keep));
        put(at, now);
        sum[w] = fma(now, query, sum[w]);
      }
    }
    float* out = task.out + row * task.out_stride + column;
#pragma GCC unroll 4
    for (std::size_t w = 0; w < kWide; ++w) put(out + w * kLanes, sum[w]);
  }
}

// The same with these columns of S in one piece: rows of S lie a power of two apart as a rule, so that columns of all
// of them would share a few sets of the nearest cache.
template <std::size_t kWide>
void delta_pieces(const DeltaRuleTask& task, std::size_t column) {
  constexpr std::size_t kMostKeys = 256;
  constexpr std::size_t kColumns = kWide * kLanes;
  if (task.rows < 4 || task.key_dim > kMostKeys) {
    return delta_columns<kWide>(task, column, 0, task.state + column, task.value_dim);
  }
  alignas(64) float piece[kMostKeys * kColumns];
  for (std::size_t i = 0; i < task.key_dim; ++i) {
    __builtin_memcpy(piece + i * kColumns, task.state + i * task.value_dim + column, sizeof(float) * kColumns);
  }
  delta_columns<kWide>(task, column, 0, piece, kColumns);
  for (std::size_t i = 0; i < task.key_dim; ++i) {
    __builtin_memcpy(task.state + i * task.value_dim + column, piece + i * kColumns, sizeof(float) * kColumns);
  }
}

}  // namespace

// Yang et al. 2024, arXiv:2412.06464.
void delta_rule(const DeltaRuleTask& task) {
  constexpr std::size_t kWide = 4;
  std::size_t column = 0;
  for (; column + kWide * kLanes <= task.value_dim; column += kWide * kLanes) delta_pieces<kWide>(task, column);
  for (; column + kLanes <= task.value_dim; column += kLanes) delta_pieces<1>(task, column);
  if (column < task.value_dim) {
    delta_columns<1>(task, column, task.value_dim - column, task.state + column, task.value_dim);
  }
}

}  // namespace cutset::CUTSET_ISA
