// Products with matrices of a low rank: few rows, or few columns, of float or bfloat16.
#include "kernels/isa/glue.h"
#include "kernels/isa/widen.h"

namespace cutset::CUTSET_ISA {

namespace {

constexpr std::size_t kVectors = kThinPanel / kLanes;
constexpr std::size_t kAhead = 2048;  // bytes

inline Vec widened(const float* p) { return load(p); }
inline Vec widened(const std::uint16_t* p) { return widen_bfloat16(p); }

// kRows rows by kPanels panels: as many chains beside each other, for each waits for its own last step.
template <class Weight, std::size_t kRows, std::size_t kPanels>
void tile(const ThinProduct& product, const Weight* panels, const float* x, float* y) {
  Vec sums[kRows][kPanels * kVectors];
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t v = 0; v < kPanels * kVectors; ++v) sums[r][v] = splat(0.0f);
  }
  const std::size_t depth = product.depth;
  for (std::size_t k = 0; k < depth; ++k) {
    Vec values[kRows];
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) values[r] = splat(x[r * product.x_stride + k]);
#pragma GCC unroll 4
    for (std::size_t p = 0; p < kPanels; ++p) {
      const Weight* row = panels + (p * depth + k) * kThinPanel;
      // A line at a time. What is next, in this matrix or the one behind it, isn't foreseen: each is short.
      if (k % (64 / sizeof(Weight) / kThinPanel) == 0) __builtin_prefetch(row + kAhead / sizeof(Weight), 0, 2);
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVectors; ++v) {
        const Vec weight = widened(row + v * kLanes);
#pragma GCC unroll 8
        for (std::size_t r = 0; r < kRows; ++r) {
          sums[r][p * kVectors + v] = fma(values[r], weight, sums[r][p * kVectors + v]);
        }
      }
    }
  }
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (std::size_t v = 0; v < kPanels * kVectors; ++v) store(y + r * product.y_stride + v * kLanes, sums[r][v]);
  }
}

// Rows by up to kWide panels at a time.
template <class Weight, std::size_t kRows, std::size_t kWide>
void rows_of(const ThinProduct& product, const float* x, float* y) {
  const auto* panels = static_cast<const Weight*>(product.panels);
  const std::size_t size = product.depth * kThinPanel;
  std::size_t p = 0;
  for (; p + kWide <= product.count; p += kWide) {
    tile<Weight, kRows, kWide>(product, panels + p * size, x, y + p * kThinPanel);
  }
  for (; p < product.count; ++p) tile<Weight, kRows, 1>(product, panels + p * size, x, y + p * kThinPanel);
}

template <class Weight>
void all_rows(const ThinProduct& product) {
  constexpr std::size_t kRows = kLanes == 16 ? 8 : 2;  // as many chains as there are registers for
  std::size_t row = 0;
  for (; row + kRows <= product.rows; row += kRows) {
    rows_of<Weight, kRows, 2>(product, product.x + row * product.x_stride, product.y + row * product.y_stride);
  }
  for (; row < product.rows; ++row) {
    rows_of<Weight, 1, 4>(product, product.x + row * product.x_stride, product.y + row * product.y_stride);
  }
}

}  // namespace

void thin_product(const ThinProduct& product) {
  if (product.half) {
    all_rows<std::uint16_t>(product);
  } else {
    all_rows<float>(product);
  }
}

}  // namespace cutset::CUTSET_ISA
