// Convolutions at some positions: positions x 32 outputs stay in registers while taps and channels run. The inputs are
// read where they lie, whatever positions they belong to: no window is copied.
#include "kernels/isa/simd_math.h"
#include "kernels/isa/sparse.h"
#include "kernels/linear.h"

namespace cutset::CUTSET_ISA {

namespace {

constexpr std::size_t kVectors = kPanel / kLanes;

template <std::size_t kRows>
void conv_rows(const ConvTask& task) {
  Vec sums[kRows][kVectors];
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) {
      sums[r][v] = load((task.start ? task.start : task.y + r * task.stride) + v * kLanes);
    }
  }
  const float* panel = task.panel;
  for (std::size_t t = 0; t < task.tap_count; ++t) {
    const float* x[kRows];
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) x[r] = task.rows[r] + task.taps[t];
    for (std::size_t k = 0; k < task.depth; ++k, panel += kPanel) {
      Vec weights[kVectors];
#pragma GCC unroll 8
      for (std::size_t v = 0; v < kVectors; ++v) weights[v] = load(panel + v * kLanes);
#pragma GCC unroll 8
      for (std::size_t r = 0; r < kRows; ++r) {
        const Vec value = splat(x[r][k]);
#pragma GCC unroll 8
        for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = fma(value, weights[v], sums[r][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) store(task.y + r * task.stride + v * kLanes, sums[r][v]);
  }
}

using Conv = void (*)(const ConvTask&);

#if defined(CUTSET_ISA_avx512) || defined(CUTSET_ISA_avx512vnni)
constexpr Conv kConvs[kConvRows] = {conv_rows<1>, conv_rows<2>, conv_rows<3>, conv_rows<4>,
                                    conv_rows<5>, conv_rows<6>, conv_rows<7>, conv_rows<8>};
#elif defined(CUTSET_ISA_avx2) || defined(__aarch64__)
constexpr Conv kConvs[kConvRows] = {conv_rows<1>, conv_rows<2>, conv_rows<3>};
#else
constexpr Conv kConvs[kConvRows] = {conv_rows<1>};
#endif

}  // namespace

void sparse_conv(const ConvTask& task) { kConvs[task.count - 1](task); }

void sparse_depthwise(const float* row, const std::ptrdiff_t* taps, std::size_t tap_count, const float* weights,
                      const float* start, std::size_t channels, float* y) {
  for_each_vec(channels, [&](auto get, auto put) {
    Vec sum = get(start);
    for (std::size_t t = 0; t < tap_count; ++t) sum = fma(get(row + taps[t]), get(weights + t * channels), sum);
    put(y, sum);
  });
}

}  // namespace cutset::CUTSET_ISA
