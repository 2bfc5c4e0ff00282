// Float32 products: a tile of rows x 32 outputs stays in registers while the depth runs. Weights of 16 bits are widened
// in registers.
#include "kernels/isa/linear.h"
#include "kernels/isa/prefetch.h"
#include "kernels/isa/widen.h"

namespace cutset::CUTSET_ISA {

namespace {

constexpr std::size_t kVectors = kPanel / kLanes;

struct BFloat16 {
  std::uint16_t bits;
};
struct Float16 {
  std::uint16_t bits;
};

// So many places of the depth lie together, for each output.
template <class Weight>
constexpr std::size_t kTogether = 1;
template <>
constexpr std::size_t kTogether<BFloat16> = 2;

// The weights of a panel's 32 outputs at one place of the depth; of two that lie together, at the first one.
inline void load_outputs(const float* row, Vec (&weights)[kVectors]) {
#pragma GCC unroll 8
  for (std::size_t v = 0; v < kVectors; ++v) weights[v] = load(row + v * kLanes);
}
inline void load_outputs(const BFloat16* row, Vec (&weights)[kVectors]) {
#pragma GCC unroll 8
  for (std::size_t v = 0; v < kVectors; ++v) weights[v] = as_floats(left<16>(load_ints(row + 2 * v * kLanes)));
}
inline void load_outputs(const Float16* row, Vec (&weights)[kVectors]) {
#pragma GCC unroll 8
  for (std::size_t v = 0; v < kVectors; ++v) weights[v] = widen_float16(row + v * kLanes);
}

// And at the second one.
inline void load_second(const BFloat16* row, Vec (&weights)[kVectors]) {
#pragma GCC unroll 8
  for (std::size_t v = 0; v < kVectors; ++v) {
    weights[v] = as_floats(both(load_ints(row + 2 * v * kLanes), splat_int(-0x10000)));
  }
}

template <std::size_t kRows>
inline __attribute__((always_inline)) void add_products(const float* x, const Vec (&weights)[kVectors],
                                                        Vec (&sums)[kRows][kVectors]) {
#pragma GCC unroll 14
  for (std::size_t r = 0; r < kRows; ++r) {
    const Vec value = splat(x[r]);
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = fma(value, weights[v], sums[r][v]);
  }
}

template <std::size_t kRows, class Weight>
void tile(const float* x, std::size_t depth, const void* weight, std::size_t columns, bool add, float* y,
          std::size_t stride) {
  const auto* panel = static_cast<const Weight*>(weight);
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
  constexpr std::size_t kPlaces = kTogether<Weight>;
  for (std::size_t k = 0; k < depth; k += kPlaces, x += kPlaces * kRows, panel += kPlaces * kPanel) {
    fetch_ahead<kRows, kPanel * sizeof(Weight)>(panel);
    Vec weights[kVectors];
    load_outputs(panel, weights);
    add_products<kRows>(x, weights, sums);
    if constexpr (kPlaces == 2) {
      if (k + 1 == depth) break;
      fetch_ahead<kRows, kPanel * sizeof(Weight)>(panel + kPanel);
      load_second(panel, weights);
      add_products<kRows>(x + kRows, weights, sums);
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

template <class Weight>
void widen_panel(const void* panel, std::size_t depth, float* wide) {
  constexpr std::size_t kPlaces = kTogether<Weight>;
  const auto* row = static_cast<const Weight*>(panel);
  for (std::size_t k = 0; k < depth; k += kPlaces, row += kPlaces * kPanel, wide += kPlaces * kPanel) {
    Vec weights[kVectors];
    load_outputs(row, weights);
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) store(wide + v * kLanes, weights[v]);
    if constexpr (kPlaces == 2) {
      if (k + 1 == depth) break;
      load_second(row, weights);
#pragma GCC unroll 8
      for (std::size_t v = 0; v < kVectors; ++v) store(wide + kPanel + v * kLanes, weights[v]);
    }
  }
}

using Tile = void (*)(const float*, std::size_t, const void*, std::size_t, bool, float*, std::size_t);

template <class Weight>
struct Tiles {
#if defined(CUTSET_ISA_avx512) || defined(CUTSET_ISA_avx512vnni)
  static constexpr Tile of[kTileRows] = {tile<1, Weight>,  tile<2, Weight>,  tile<3, Weight>,  tile<4, Weight>,
                                         tile<5, Weight>,  tile<6, Weight>,  tile<7, Weight>,  tile<8, Weight>,
                                         tile<9, Weight>,  tile<10, Weight>, tile<11, Weight>, tile<12, Weight>,
                                         tile<13, Weight>, tile<14, Weight>};
#elif defined(CUTSET_ISA_avx2) || defined(__aarch64__)
  static constexpr Tile of[kTileRows] = {tile<1, Weight>, tile<2, Weight>, tile<3, Weight>};
#else
  static constexpr Tile of[kTileRows] = {tile<1, Weight>};
#endif
};

}  // namespace

void f32_pack(const float* x, std::size_t rows, std::size_t depth, float* packed) {
  // Along the rows first, so that what is written is contiguous.
  for (std::size_t k = 0; k < depth; ++k, packed += rows) {
    const float* from = x + k;
    for (std::size_t r = 0; r < rows; ++r, from += depth) packed[r] = *from;
  }
}

void f32_tile(const float* packed_x, std::size_t rows, std::size_t depth, const void* panel, FloatType type,
              std::size_t columns, bool add, float* y, std::size_t stride) {
  const Tile* tiles = type == FloatType::kFloat32    ? Tiles<float>::of
                      : type == FloatType::kBFloat16 ? Tiles<BFloat16>::of
                                                     : Tiles<Float16>::of;
  tiles[rows - 1](packed_x, depth, panel, columns, add, y, stride);
}

void f32_widen(const void* panel, FloatType type, std::size_t depth, float* wide) {
  if (type == FloatType::kBFloat16) {
    widen_panel<BFloat16>(panel, depth, wide);
  } else {
    widen_panel<Float16>(panel, depth, wide);
  }
}

}  // namespace cutset::CUTSET_ISA
