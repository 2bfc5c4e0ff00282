// Products with matrices of a low rank: few rows, or few columns, of floats, bfloat16 or bytes.
#include "kernels/isa/glue.h"
#include "kernels/isa/ints.h"
#include "kernels/isa/simd.h"

namespace cutset::CUTSET_ISA {

namespace {

constexpr std::size_t kVectors = kThinPanel / kLanes;
constexpr std::size_t kLine = 64;
constexpr std::size_t kAhead = 4096;  // bytes

// What is a step's weight of some lanes, in a line of a panel.
struct OfFloats {
  static constexpr ThinKind kKind = ThinKind::kFloat;
  static Vec weight(const char* line, std::size_t v, std::size_t) {
    return as_floats(load_ints(line + v * sizeof(Ints)));
  }
};

struct OfBfloats {
  static constexpr ThinKind kKind = ThinKind::kBfloat;
  static Vec weight(const char* line, std::size_t v, std::size_t step) {
    const Ints words = load_ints(line + v * sizeof(Ints));
    return as_floats(step == 0 ? left<16>(words) : both(words, splat_int(-65536)));
  }
};

struct OfBytes {
  static constexpr ThinKind kKind = ThinKind::kByte;
  static Vec weight(const char* line, std::size_t v, std::size_t step) {
    return to_floats(widen(reinterpret_cast<const std::int8_t*>(line) + step * kThinPanel + v * kLanes));
  }
};

// kRows rows by kPanels panels, each with rows of its own unless they are shared: as many chains beside each other, for
// each waits for its own last step.
template <class Kind, std::size_t kRows, std::size_t kPanels, bool kShared>
struct Chains {
  static constexpr std::size_t kSteps = thin_steps(Kind::kKind);

  const float* x[kPanels];
  std::size_t stride;
  const char* panels[kPanels];
  Vec sums[kPanels][kRows][kVectors];

  // The first kSome steps of a line.
  template <std::size_t kSome>
  __attribute__((always_inline)) inline void line(std::size_t number) {
    // What is next, in this panel or the one behind it, isn't foreseen: each is short.
#pragma GCC unroll 4
    for (std::size_t p = 0; p < kPanels; ++p) __builtin_prefetch(panels[p] + number * kLine + kAhead, 0, 2);
#pragma GCC unroll 4
    for (std::size_t s = 0; s < kSome; ++s) {
      const std::size_t k = number * kSteps + s;
      Vec weights[kPanels][kVectors];
#pragma GCC unroll 4
      for (std::size_t p = 0; p < kPanels; ++p) {
#pragma GCC unroll 4
        for (std::size_t v = 0; v < kVectors; ++v) weights[p][v] = Kind::weight(panels[p] + number * kLine, v, s);
      }
#pragma GCC unroll 16
      for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
        for (std::size_t p = 0; p < kPanels; ++p) {
          const Vec value = splat(x[kShared ? 0 : p][r * stride + k]);
#pragma GCC unroll 4
          for (std::size_t v = 0; v < kVectors; ++v) sums[p][r][v] = fma(value, weights[p][v], sums[p][r][v]);
        }
      }
    }
  }

  __attribute__((always_inline)) inline void run(std::size_t depth) {
#pragma GCC unroll 4
    for (std::size_t p = 0; p < kPanels; ++p) {
#pragma GCC unroll 16
      for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
        for (std::size_t v = 0; v < kVectors; ++v) sums[p][r][v] = splat(0.0f);
      }
    }
    const std::size_t lines = depth / kSteps;
    for (std::size_t number = 0; number < lines; ++number) line<kSteps>(number);
    switch (depth % kSteps) {
      case 1:
        return line<1>(lines);
      case 2:
        return line<2>(lines);
      case 3:
        return line<3>(lines);
    }
  }
};

template <class Kind, std::size_t kRows, std::size_t kPanels, bool kShared>
void dot_tile(const ThinDots& work, const ThinDot* dots, std::size_t row) {
  Chains<Kind, kRows, kPanels, kShared> chains;
  chains.stride = work.x_stride;
  for (std::size_t p = 0; p < kPanels; ++p) {
    chains.x[p] = dots[p].x + row * work.x_stride;
    chains.panels[p] = static_cast<const char*>(dots[p].panel);
  }
  chains.run(work.depth);
#pragma GCC unroll 4
  for (std::size_t p = 0; p < kPanels; ++p) {
#pragma GCC unroll 16
    for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVectors; ++v) {
        store(dots[p].y + (row + r) * work.y_stride + v * kLanes, chains.sums[p][r][v]);
      }
    }
  }
}

// As many chains as there are registers for.
constexpr bool kMany = kLanes == 16;
constexpr std::size_t kTilePanels = kMany ? 2 : 1, kRowPanels = kMany ? 4 : 2;
constexpr std::size_t kTileRows = kMany ? 8 : 4;

template <class Kind, std::size_t kPanels>
void dot_rows(const ThinDots& work, const ThinDot* dots) {
  std::size_t row = 0;
  for (; row + kTileRows <= work.rows; row += kTileRows) dot_tile<Kind, kTileRows, kPanels, true>(work, dots, row);
  for (; row + 4 <= work.rows; row += 4) dot_tile<Kind, 4, kPanels, true>(work, dots, row);
  for (; row < work.rows; ++row) dot_tile<Kind, 1, kPanels, true>(work, dots, row);
}

template <class Kind>
void all_dots(const ThinDots& work) {
  std::size_t d = 0;
  if (work.rows == 1) {
    for (; d + kRowPanels <= work.count; d += kRowPanels) {
      dot_tile<Kind, 1, kRowPanels, false>(work, work.dots + d, 0);
    }
    for (; kRowPanels > 2 && d + 2 <= work.count; d += 2) dot_tile<Kind, 1, 2, false>(work, work.dots + d, 0);
    for (; d < work.count; ++d) dot_tile<Kind, 1, 1, false>(work, work.dots + d, 0);
    return;
  }
  while (d < work.count) {
    const ThinDot* dots = work.dots + d;
    if (d + kTilePanels <= work.count && dots[kTilePanels - 1].x == dots[0].x) {
      dot_rows<Kind, kTilePanels>(work, dots);
      d += kTilePanels;
    } else {
      dot_rows<Kind, 1>(work, dots);
      d += 1;
    }
  }
}

// Lanes low .. end of y += factor * sums, by the vectors that whole panels take.
void add_edge(const Vec (&sums)[kVectors], Vec factor, std::size_t low, std::size_t end, float* y) {
  float lanes[kThinPanel] = {};
  for (std::size_t i = low; i < end; ++i) lanes[i] = y[i - low];
  for (std::size_t v = 0; v < kVectors; ++v) {
    float* at = lanes + v * kLanes;
    store(at, fma(factor, sums[v], load(at)));
  }
  for (std::size_t i = low; i < end; ++i) y[i - low] = lanes[i];
}

template <class Kind, std::size_t kRows, std::size_t kPanels>
void add_tile(const ThinAdd& work, std::size_t row, std::size_t panel) {
  Chains<Kind, kRows, kPanels, true> chains;
  chains.stride = work.x_stride;
  for (std::size_t p = 0; p < kPanels; ++p) {
    chains.x[p] = work.x + row * work.x_stride;
    chains.panels[p] = static_cast<const char*>(work.panels) + (panel + p) * thin_panel_bytes(work.depth, Kind::kKind);
  }
  chains.run(work.depth);
#pragma GCC unroll 4
  for (std::size_t p = 0; p < kPanels; ++p) {
    const std::size_t first = (panel + p) * kThinPanel;  // of the panel's outputs
    const std::size_t low = first == 0 ? work.skip : 0;
    const std::size_t rest = work.skip + work.outputs - first, end = rest < kThinPanel ? rest : kThinPanel;
    const Vec factor = splat(work.scales ? work.scales[panel + p] : work.scale);
    float* y = work.y + row * work.y_stride + (first + low - work.skip);
#pragma GCC unroll 16
    for (std::size_t r = 0; r < kRows; ++r, y += work.y_stride) {
      if (low > 0 || end < kThinPanel) {
        add_edge(chains.sums[p][r], factor, low, end, y);
        continue;
      }
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVectors; ++v) {
        store(y + v * kLanes, fma(factor, chains.sums[p][r][v], load(y + v * kLanes)));
      }
    }
  }
}

template <class Kind, std::size_t kRows, std::size_t kPanels>
void add_panels(const ThinAdd& work, std::size_t row) {
  const std::size_t panels = (work.skip + work.outputs + kThinPanel - 1) / kThinPanel;
  std::size_t p = 0;
  for (; p + kPanels <= panels; p += kPanels) add_tile<Kind, kRows, kPanels>(work, row, p);
  for (; p < panels; ++p) add_tile<Kind, kRows, 1>(work, row, p);
}

template <class Kind>
void all_adds(const ThinAdd& work) {
  std::size_t row = 0;
  for (; row + kTileRows <= work.rows; row += kTileRows) add_panels<Kind, kTileRows, kTilePanels>(work, row);
  for (; row + 4 <= work.rows; row += 4) add_panels<Kind, 4, kTilePanels>(work, row);
  for (; row < work.rows; ++row) add_panels<Kind, 1, kRowPanels>(work, row);
}

}  // namespace

void thin_dots(const ThinDots& work) {
  switch (work.kind) {
    case ThinKind::kFloat:
      return all_dots<OfFloats>(work);
    case ThinKind::kBfloat:
      return all_dots<OfBfloats>(work);
    case ThinKind::kByte:
      return all_dots<OfBytes>(work);
  }
}

void thin_add(const ThinAdd& work) {
  switch (work.kind) {
    case ThinKind::kFloat:
      return all_adds<OfFloats>(work);
    case ThinKind::kBfloat:
      return all_adds<OfBfloats>(work);
    case ThinKind::kByte:
      return all_adds<OfBytes>(work);
  }
}

}  // namespace cutset::CUTSET_ISA
