// Float32 products: a tile of rows x 32 outputs stays in registers while the depth runs.
#include "kernels/isa/linear.h"
#include "kernels/isa/prefetch.h"
#include "kernels/isa/simd.h"

namespace cutset::CUTSET_ISA {

namespace {

constexpr std::size_t kVectors = kPanel / kLanes;

template <std::size_t kRows>
void tile(const float* x, std::size_t depth, const float* panel, std::size_t columns, bool add, float* y,
          std::size_t stride) {
  float edge[kRows][kPanel];
  float* out = y;
  std::size_t out_stride = stride;
  if (columns < kPanel) {  // the outputs that don't exist are computed beside
    out = edge[0];
    out_stride = kPanel;
    for (std::size_t r = 0; r < kRows; ++r) {
      for (std::size_t c = 0; c < kPanel; ++c) edge[r][c] = add && c < columns ? y[r * stride + c] : 0.0f;
    }
  }
  Vec sums[kRows][kVectors];
#pragma GCC unroll 14
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) {
      sums[r][v] = add ? load(out + r * out_stride + v * kLanes) : splat(0.0f);
    }
  }
  for (std::size_t r = 0; r < kRows; ++r) fetch_output(y + r * stride);
  for (std::size_t k = 0; k < depth; ++k, x += kRows, panel += kPanel) {
    fetch_ahead<kRows>(panel);
    Vec weights[kVectors];
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) weights[v] = load(panel + v * kLanes);
#pragma GCC unroll 14
    for (std::size_t r = 0; r < kRows; ++r) {
      const Vec value = splat(x[r]);
#pragma GCC unroll 8
      for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = fma(value, weights[v], sums[r][v]);
    }
  }
#pragma GCC unroll 14
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) store(out + r * out_stride + v * kLanes, sums[r][v]);
  }
  if (columns < kPanel) {
    for (std::size_t r = 0; r < kRows; ++r) {
      for (std::size_t c = 0; c < columns; ++c) y[r * stride + c] = edge[r][c];
    }
  }
}

using Tile = void (*)(const float*, std::size_t, const float*, std::size_t, bool, float*, std::size_t);

#if defined(CUTSET_ISA_avx512) || defined(CUTSET_ISA_avx512vnni)
constexpr Tile kTiles[kTileRows] = {tile<1>, tile<2>, tile<3>,  tile<4>,  tile<5>,  tile<6>,  tile<7>,
                                    tile<8>, tile<9>, tile<10>, tile<11>, tile<12>, tile<13>, tile<14>};
#elif defined(CUTSET_ISA_avx2) || defined(__aarch64__)
constexpr Tile kTiles[kTileRows] = {tile<1>, tile<2>, tile<3>};
#else
constexpr Tile kTiles[kTileRows] = {tile<1>};
#endif

}  // namespace

void f32_pack(const float* x, std::size_t rows, std::size_t depth, float* packed) {
  // Along the rows first, so that what is written is contiguous.
  for (std::size_t k = 0; k < depth; ++k, packed += rows) {
    const float* from = x + k;
    for (std::size_t r = 0; r < rows; ++r, from += depth) packed[r] = *from;
  }
}

void f32_tile(const float* packed_x, std::size_t rows, std::size_t depth, const float* panel, std::size_t columns,
              bool add, float* y, std::size_t stride) {
  kTiles[rows - 1](packed_x, depth, panel, columns, add, y, stride);
}

}  // namespace cutset::CUTSET_ISA
