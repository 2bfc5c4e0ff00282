// Float32 products with bfloat16 weights in AMX tiles; kernels/linear.h says what is computed. An instruction takes 16
// rows, 16 outputs and 32 places of the depth. The packed form of the weights holds two tiles side by side.
//
// Of many rows, each step of the depth takes one tile of rows with two panels: rows come from the second cache, so they
// are what must be read least, and a piece of two panels stays in the nearest one. A single tile of rows is multiplied
// as fast as weights come from memory: a panel after the other, which is one stream.
#include "kernels/isa/linear.h"

#if defined(CUTSET_ISA_amx)

#include <immintrin.h>

#include "kernels/isa/ints.h"

namespace cutset::CUTSET_ISA {

namespace {

constexpr std::size_t kPieces = 3;      // of a float32
constexpr std::size_t kTileBytes = 64;  // of a row in a tile: 32 bfloat16, 16 floats
constexpr std::size_t kMostTiles = kBFloat16JobRows / kBFloat16Rows;
constexpr std::size_t kStepBytes = kHalfStep * kTileBytes;  // of a panel, in one step of the depth
constexpr std::size_t kNear = 5120, kFar = 7168;            // bytes of weights ahead, by measurement
constexpr std::size_t kNearDepth = 128;                     // for which weights stay in the nearest cache
constexpr std::size_t kCacheBytes = std::size_t{1} << 20;   // of rows that see all panels before the next ones

// Tiles 0 to 3: sums of 16 outputs each; 4 to 6: the rows' pieces; 7: weights. One for each number of rows.
struct alignas(64) Configuration {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
struct Configurations {
  Configuration of[kBFloat16Rows];
  constexpr Configurations() : of{} {
    for (std::size_t height = 1; height <= kBFloat16Rows; ++height) {
      for (std::size_t tile = 0; tile < 7; ++tile) of[height - 1].rows[tile] = static_cast<std::uint8_t>(height);
    }
  }
};
constexpr Configurations kConfigurations;

// The sums of a tile of rows: 16 outputs in each part, two parts a panel.
struct alignas(64) Sums {
  float of[4][kBFloat16Rows][16];
};

// The compiler doesn't know that the instructions for tiles read memory.
inline void written() { __asm__ volatile("" ::: "memory"); }

struct Pieces {
  __m512i upper, middle, lower;  // bfloat16 in the upper halves of words
};

// Each piece is cut off, not rounded, so what is left of 24 bits has 16 and then 8. Of an infinity and of what is no
// number the upper piece is all, with a bit that stays.
inline Pieces cut(__m512 x) {
  const __m512i mask = _mm512_set1_epi32(-0x10000);
  constexpr int kNone = 0x81, kEndless = 0x18;
  const __mmask16 none = _mm512_fpclass_ps_mask(x, kNone);
  const auto finite = static_cast<__mmask16>(~_mm512_fpclass_ps_mask(x, kNone | kEndless));
  const __m512i top = _mm512_and_si512(_mm512_castps_si512(x), mask);
  const __m512i upper = _mm512_mask_or_epi32(top, none, top, _mm512_set1_epi32(0x400000));
  const __m512 rest = _mm512_maskz_sub_ps(finite, x, _mm512_castsi512_ps(upper));
  const __m512i middle = _mm512_and_si512(_mm512_castps_si512(rest), mask);
  return {upper, middle, _mm512_castps_si512(_mm512_sub_ps(rest, _mm512_castsi512_ps(middle)))};
}

inline void put(__m512i low, __m512i high, std::uint8_t* out) {
  alignas(64) static constexpr std::uint16_t kUpper[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21,
                                                           23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43,
                                                           45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  _mm512_store_si512(out, _mm512_permutex2var_epi16(low, _mm512_load_si512(kUpper), high));
}

// A step of the depth: lower, middle and upper pieces, `plane` bytes apart, with one panel or two.
template <std::size_t kPanels>
inline void step(const std::uint8_t* pieces, std::size_t plane, const std::uint8_t* weights, std::size_t panel_bytes) {
  _tile_loadd(4, pieces, kTileBytes);
  _tile_loadd(7, weights, 2 * kTileBytes);
  _tile_dpbf16ps(0, 4, 7);
  _tile_loadd(5, pieces + plane, kTileBytes);
  _tile_dpbf16ps(0, 5, 7);
  _tile_loadd(6, pieces + 2 * plane, kTileBytes);
  _tile_dpbf16ps(0, 6, 7);
  _tile_loadd(7, weights + kTileBytes, 2 * kTileBytes);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(1, 5, 7);
  _tile_dpbf16ps(1, 6, 7);
  if constexpr (kPanels == 2) {
    _tile_loadd(7, weights + panel_bytes, 2 * kTileBytes);
    _tile_dpbf16ps(2, 4, 7);
    _tile_dpbf16ps(2, 5, 7);
    _tile_dpbf16ps(2, 6, 7);
    _tile_loadd(7, weights + panel_bytes + kTileBytes, 2 * kTileBytes);
    _tile_dpbf16ps(3, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
    _tile_dpbf16ps(3, 6, 7);
  }
}

template <std::size_t kPanels>
inline void begin_sums(const Sums& sums, bool add) {
  if (!add) {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (kPanels == 2) {
      _tile_zero(2);
      _tile_zero(3);
    }
    return;
  }
  _tile_loadd(0, sums.of[0], kTileBytes);
  _tile_loadd(1, sums.of[1], kTileBytes);
  if constexpr (kPanels == 2) {
    _tile_loadd(2, sums.of[2], kTileBytes);
    _tile_loadd(3, sums.of[3], kTileBytes);
  }
}

template <std::size_t kPanels>
inline void end_sums(Sums& sums) {
  _tile_stored(0, sums.of[0], kTileBytes);
  _tile_stored(1, sums.of[1], kTileBytes);
  if constexpr (kPanels == 2) {
    _tile_stored(2, sums.of[2], kTileBytes);
    _tile_stored(3, sums.of[3], kTileBytes);
  }
}

// Sums of a tile to its rows of y and back; of outputs that don't exist zeros come.
inline __mmask16 part_mask(std::size_t columns, std::size_t part) {
  const std::size_t first = 16 * part;
  if (columns <= first) return 0;
  return static_cast<__mmask16>(columns - first >= 16 ? 0xFFFF : (1u << (columns - first)) - 1);
}
void to_rows(const Sums& sums, std::size_t rows, std::size_t columns, float* y, std::size_t stride) {
  for (std::size_t part = 0; 16 * part < columns; ++part) {
    const __mmask16 mask = part_mask(columns, part);
    for (std::size_t r = 0; r < rows; ++r) {
      _mm512_mask_storeu_ps(y + r * stride + 16 * part, mask, _mm512_load_ps(sums.of[part][r]));
    }
  }
}
void from_rows(const float* y, std::size_t stride, std::size_t rows, std::size_t columns, Sums& sums) {
  for (std::size_t part = 0; 16 * part < columns; ++part) {
    const __mmask16 mask = part_mask(columns, part);
    for (std::size_t r = 0; r < rows; ++r) {
      _mm512_store_ps(sums.of[part][r], _mm512_maskz_loadu_ps(mask, y + r * stride + 16 * part));
    }
  }
}

// How the job at hand lies in memory.
struct Place {
  std::size_t depth, panel_bytes;  // the depth padded
  std::size_t plane, tile;         // bytes of a tile's pieces of one kind in one step, and of all of them

  explicit Place(const BFloat16Job& job)
      : depth(round_up(job.depth, kHalfStep)),
        panel_bytes(depth * kTileBytes),
        plane(job.height * kTileBytes),
        tile(job.height * bf16_row_bytes(job.depth)) {}
};

// One tile of rows.
void few_rows(const BFloat16Job& job, const Place& place) {
  Sums sums;
  const auto* weights = static_cast<const std::uint8_t*>(job.panels);
  for (std::size_t output = 0; output < job.outputs; output += kPanel) {
    const auto* pieces = static_cast<const std::uint8_t*>(job.pieces);
    begin_sums<1>(sums, false);
    for (std::size_t k = 0; k < place.depth; k += kHalfStep, pieces += kPieces * place.plane, weights += kStepBytes) {
#pragma GCC unroll 32
      for (std::size_t line = 0; line < kStepBytes; line += 64) {
        __builtin_prefetch(weights + kFar + line, 0, 2);
        __builtin_prefetch(weights + kNear + line, 0, 3);
      }
      step<1>(pieces, place.plane, weights, 0);
    }
    end_sums<1>(sums);
    const std::size_t columns = job.outputs - output < kPanel ? job.outputs - output : kPanel;
    to_rows(sums, job.rows, columns, job.y + output, job.stride);
  }
}

// A range of the depth, for all tiles of rows with one panel or two.
template <std::size_t kPanels>
void many_rows(const BFloat16Job& job, const Place& place, std::size_t first, std::size_t last, std::size_t output) {
  Sums sums[kMostTiles];
  const std::size_t tiles = (job.rows + job.height - 1) / job.height;
  const auto* panel = static_cast<const std::uint8_t*>(job.panels) + output / kPanel * place.panel_bytes;
  const std::size_t left = job.outputs - output, columns = left < kPanels * kPanel ? left : kPanels * kPanel;
  const auto rows_of = [&](std::size_t t) {
    return job.rows - t * job.height < job.height ? job.rows - t * job.height : job.height;
  };
  const auto results_of = [&](std::size_t t) { return job.y + t * job.height * job.stride + output; };
  for (std::size_t t = 0; first > 0 && t < tiles; ++t) {
    from_rows(results_of(t), job.stride, rows_of(t), columns, sums[t]);
  }
  written();
  for (std::size_t k = first; k < last; k += kNearDepth) {
    const std::size_t end = last - k < kNearDepth ? last : k + kNearDepth, steps = (end - k) / kHalfStep;
    // What comes next: the same panels further on, or the next ones.
    const std::uint8_t* next =
        end < last ? panel + end * kTileBytes : panel + kPanels * place.panel_bytes + first * kTileBytes;
    const std::size_t lines = (kNearDepth + steps * tiles - 1) / (steps * tiles);  // at each step, of each panel
    for (std::size_t t = 0; t < tiles; ++t) {
      const auto* pieces = static_cast<const std::uint8_t*>(job.pieces) + t * place.tile;
      pieces += k / kHalfStep * kPieces * place.plane;
      begin_sums<kPanels>(sums[t], k > 0);
      for (std::size_t i = k; i < end; i += kHalfStep, pieces += kPieces * place.plane) {
        for (std::size_t line = 0; line < lines; ++line, next += 64) {
          __builtin_prefetch(next, 0, 2);
          if constexpr (kPanels == 2) __builtin_prefetch(next + place.panel_bytes, 0, 2);
        }
        step<kPanels>(pieces, place.plane, panel + i * kTileBytes, place.panel_bytes);
      }
      end_sums<kPanels>(sums[t]);
    }
  }
  for (std::size_t t = 0; t < tiles; ++t) to_rows(sums[t], rows_of(t), columns, results_of(t), job.stride);
}

}  // namespace

std::size_t bf16_row_bytes(std::size_t depth) { return round_up(depth, kHalfStep) / kHalfStep * kPieces * kTileBytes; }

// [depth / 32][lower, middle, upper][height][32]
void bf16_pack(const float* x, std::size_t rows, std::size_t height, std::size_t depth, void* pieces) {
  const std::size_t plane = height * kTileBytes;
  auto* out = static_cast<std::uint8_t*>(pieces);
  for (std::size_t k = 0; k < depth; k += kHalfStep, out += kPieces * plane) {
    const std::size_t count = depth - k;
    for (std::size_t r = 0; r < rows; ++r) {
      const float* from = x + r * depth + k;
      const Pieces low = cut(_mm512_maskz_loadu_ps(part_mask(count, 0), from));
      const Pieces high = cut(_mm512_maskz_loadu_ps(part_mask(count, 1), count > 16 ? from + 16 : from));
      std::uint8_t* row = out + r * kTileBytes;
      put(low.lower, high.lower, row);
      put(low.middle, high.middle, row + plane);
      put(low.upper, high.upper, row + 2 * plane);
    }
  }
}

void bf16_multiply(const BFloat16Job& job) {
  const Place place(job);
  _tile_loadconfig(&kConfigurations.of[job.height - 1]);
  if (job.rows <= job.height) {
    few_rows(job, place);
  } else {
    // Even parts of the depth, so that no short one is left.
    const std::size_t parts = job.rows * bf16_row_bytes(job.depth) / kCacheBytes + 1;
    const std::size_t range = round_up((place.depth + parts - 1) / parts, kNearDepth);
    for (std::size_t k = 0; k < place.depth; k += range) {
      const std::size_t end = place.depth - k < range ? place.depth : k + range;
      for (std::size_t output = 0; output < job.outputs; output += 2 * kPanel) {
        (job.outputs - output > kPanel ? many_rows<2> : many_rows<1>)(job, place, k, end, output);
      }
    }
  }
  _tile_release();  // so that the system doesn't save eight kilobytes at each switch of threads
}

}  // namespace cutset::CUTSET_ISA

#endif
