// Products of grouped weights by pairs of 16-bit integers: codes widened to 16 bits times the rows' integers.
#include "kernels/isa/grouped.h"
#include "kernels/isa/ints.h"

namespace cutset::CUTSET_ISA {

namespace {

#if defined(CUTSET_ISA_avx512) || defined(CUTSET_ISA_avx512vnni)
constexpr std::size_t kMostRows = 8;
inline Ints times(Ints a, Ints b) { return _mm512_mullo_epi32(a, b); }
inline Ints looked_up(Ints table, Ints at) { return _mm512_shuffle_epi8(table, at); }
inline Ints table_of(const std::uint8_t* level) {
  std::uint8_t four[64];
  for (std::size_t i = 0; i < 64; i += 16) __builtin_memcpy(four + i, level, 16);
  return load_ints(four);
}
inline Vec exact_fma(Vec a, Vec b, Vec c) { return fma(a, b, c); }
#elif defined(CUTSET_ISA_avx2)
constexpr std::size_t kMostRows = 2;
inline Ints times(Ints a, Ints b) { return _mm256_mullo_epi32(a, b); }
inline Ints looked_up(Ints table, Ints at) { return _mm256_shuffle_epi8(table, at); }
inline Ints table_of(const std::uint8_t* level) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(level)));
}
inline Vec exact_fma(Vec a, Vec b, Vec c) { return fma(a, b, c); }
#else
constexpr std::size_t kMostRows = 1;
inline Ints times(Ints a, Ints b) { return a * b; }
inline Ints table_of(const std::uint8_t* level) { return load_ints(level); }
// As the instruction does it: zero where the index has its upper bit.
inline Ints looked_up(Ints table, Ints at) {
  std::uint8_t level[16], index[16];
  store_ints(level, table);
  store_ints(index, at);
  for (std::size_t i = 0; i < 16; ++i) index[i] = index[i] & 0x80u ? std::uint8_t{0} : level[index[i] & 15u];
  return load_ints(index);
}
inline Vec exact_fma(Vec a, Vec b, Vec c) {
  Vec sum;
  for (std::size_t i = 0; i < kLanes; ++i) sum[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return sum;
}
#endif

constexpr std::size_t kVectors = 16 / kLanes;  // of one nibble's outputs
constexpr std::size_t kWord = 4 * kLanes;      // bytes of a vector

// Moves bits from place kFrom of each half of a word to place 4.
template <int kFrom>
inline Ints to_fourth(Ints bits, std::int32_t mask) {
  if constexpr (kFrom > 4) return both(right<kFrom - 4>(bits), splat_int(mask));
  if constexpr (kFrom < 4) return both(left<4 - kFrom>(bits), splat_int(mask));
  return both(bits, splat_int(mask));
}

struct Quad {
  Ints low0, low1, high0, high1;  // columns 0, 1 and 2, 3 of outputs c; the same of outputs c + 16
};

// What step kStep of a slab has for the vector `v` of outputs.
template <int kBits, bool kLevels, int kStep>
inline __attribute__((always_inline)) Quad widened(const std::uint8_t* slab, std::size_t v, Ints table) {
  if constexpr (kBits == 8) {
    const Ints bytes = splat_int(0x00FF00FF);
    const Ints low = load_ints(slab + kStep * 128 + v * kWord), high = load_ints(slab + kStep * 128 + 64 + v * kWord);
    return {both(low, bytes), both(right<8>(low), bytes), both(high, bytes), both(right<8>(high), bytes)};
  }
  const Ints nibbles = splat_int(0x000F000F), x = load_ints(slab + kStep * 64 + v * kWord);
  Quad quad = {both(x, nibbles), both(right<8>(x), nibbles), both(right<4>(x), nibbles), both(right<12>(x), nibbles)};
  if constexpr (kLevels) {
    const Ints none = splat_int(static_cast<std::int32_t>(0x80008000u));  // the upper bytes
    quad = {looked_up(table, either(quad.low0, none)), looked_up(table, either(quad.low1, none)),
            looked_up(table, either(quad.high0, none)), looked_up(table, either(quad.high1, none))};
  }
  if constexpr (kBits == 5) {
    const Ints fifth = load_ints(slab + 256 + v * kWord);
    constexpr std::int32_t kMask = 0x00100010;
    quad.low0 = either(quad.low0, to_fourth<4 * kStep>(fifth, kMask));
    quad.low1 = either(quad.low1, to_fourth<4 * kStep + 2>(fifth, kMask));
    quad.high0 = either(quad.high0, to_fourth<4 * kStep + 1>(fifth, kMask));
    quad.high1 = either(quad.high1, to_fourth<4 * kStep + 3>(fifth, kMask));
  }
  if constexpr (kBits == 6) {
    const Ints low = load_ints(slab + 256 + v * kWord), high = load_ints(slab + 320 + v * kWord);
    constexpr std::int32_t kMask = 0x00300030;
    quad.low0 = either(quad.low0, to_fourth<4 * kStep>(low, kMask));
    quad.low1 = either(quad.low1, to_fourth<4 * kStep + 2>(low, kMask));
    quad.high0 = either(quad.high0, to_fourth<4 * kStep>(high, kMask));
    quad.high1 = either(quad.high1, to_fourth<4 * kStep + 2>(high, kMask));
  }
  return quad;
}

inline Ints pair_at(const std::int16_t* q) {
  std::int32_t pair;
  __builtin_memcpy(&pair, q, sizeof pair);
  return splat_int(pair);
}

// Sums of a group: [row][chain][vector], the vectors of outputs c and then those of outputs c + 16. Two chains hide the
// instruction's latency where there are few rows; integers may be added in any order.
template <std::size_t kRows>
constexpr std::size_t kChains = kRows <= 2 ? 2 : 1;
template <std::size_t kRows>
using Sums = Ints[kRows][kChains<kRows>][2 * kVectors];

template <int kBits, bool kLevels, int kStep, std::size_t kRows>
inline __attribute__((always_inline)) void add_step(const std::uint8_t* slab, const std::int16_t* q, std::size_t stride,
                                                    Ints table, Sums<kRows>& sums) {
  constexpr std::size_t kLast = kChains<kRows> - 1;
#pragma GCC unroll 4
  for (std::size_t v = 0; v < kVectors; ++v) {
    const Quad quad = widened<kBits, kLevels, kStep>(slab, v, table);
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) {
      const Ints first = pair_at(q + r * stride + 4 * kStep), second = pair_at(q + r * stride + 4 * kStep + 2);
      sums[r][0][v] = dot_halves(sums[r][0][v], quad.low0, first);
      sums[r][0][kVectors + v] = dot_halves(sums[r][0][kVectors + v], quad.high0, first);
      sums[r][kLast][v] = dot_halves(sums[r][kLast][v], quad.low1, second);
      sums[r][kLast][kVectors + v] = dot_halves(sums[r][kLast][kVectors + v], quad.high1, second);
    }
  }
}

// With one row the loads alone keep memory busy, but for the ends of pages; more rows need lines from farther.
template <std::size_t kRows>
inline void fetch_slab(const std::uint8_t* slab, int bits) {
  constexpr std::size_t kFar = kRows == 1 ? 2048 : 6144;
  for (std::size_t at = 0; at < slab_bytes(bits); at += 64) __builtin_prefetch(slab + kFar + at, 0, 2);
}

// Adds `count` groups from `first` on to totals[row][32].
template <int kBits, bool kLevels, std::size_t kRows>
void block(const PanelForm& form, const GroupedRows& rows, const std::uint8_t* panel, std::size_t first,
           std::size_t count, const Factors& factors, float (*totals)[kPanel]) {
  const Ints table = kLevels ? table_of(form.level) : splat_int(0);
  const std::size_t stride = form.depth;
  const bool minima = form.minima.kind != FactorKind::kNone;
  for (std::size_t g = 0; g < count; ++g) {
    const std::size_t start = (first + g) * form.span;
    const std::size_t end = start + form.span < form.depth ? start + form.span : form.depth;
    const std::int32_t* group_sums = rows.sums + first + g;
    Sums<kRows> sums;
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) {
      const Ints shift = splat_int(-form.zero * group_sums[r * form.groups]);
#pragma GCC unroll 8
      for (std::size_t v = 0; v < 2 * kVectors; ++v) {
        sums[r][kChains<kRows> - 1][v] = splat_int(0);
        sums[r][0][v] = shift;
      }
    }
    if (form.zeros) {
#pragma GCC unroll 8
      for (std::size_t r = 0; r < kRows; ++r) {
        const Ints minus = splat_int(-group_sums[r * form.groups]);
#pragma GCC unroll 8
        for (std::size_t v = 0; v < 2 * kVectors; ++v) {
          sums[r][0][v] = times(load_ints(factors.zeros[g] + v * kLanes), minus);
        }
      }
    }
    const std::uint8_t* slab = panel + start / kSlab * slab_bytes(kBits);
    const std::int16_t* q = rows.q + start;
    for (std::size_t k = start; k < end; k += kSlab, slab += slab_bytes(kBits), q += kSlab) {
      fetch_slab<kRows>(slab, kBits);
      add_step<kBits, kLevels, 0, kRows>(slab, q, stride, table, sums);
      add_step<kBits, kLevels, 1, kRows>(slab, q, stride, table, sums);
      add_step<kBits, kLevels, 2, kRows>(slab, q, stride, table, sums);
      add_step<kBits, kLevels, 3, kRows>(slab, q, stride, table, sums);
    }
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (std::size_t v = 0; v < 2 * kVectors; ++v) {
        Ints sum = sums[r][0][v];
        if constexpr (kChains<kRows> == 2) sum = add(sum, sums[r][1][v]);
        float* at = totals[r] + v * kLanes;
        store(at, exact_fma(to_floats(sum), load(factors.scales[g] + v * kLanes), load(at)));
      }
    }
    if (minima) {
#pragma GCC unroll 8
      for (std::size_t r = 0; r < kRows; ++r) {
        const Vec sum = splat(static_cast<float>(group_sums[r * form.groups]));
#pragma GCC unroll 8
        for (std::size_t v = 0; v < 2 * kVectors; ++v) {
          float* at = totals[r] + v * kLanes;
          store(at, exact_fma(sum, load(factors.minima[g] + v * kLanes), load(at)));
        }
      }
    }
  }
}

using Block = void (*)(const PanelForm&, const GroupedRows&, const std::uint8_t*, std::size_t, std::size_t,
                       const Factors&, float (*)[kPanel]);

template <int kBits, bool kLevels>
Block block_of(std::size_t rows) {
#if defined(CUTSET_ISA_avx512) || defined(CUTSET_ISA_avx512vnni)
  constexpr Block kBlocks[kMostRows] = {block<kBits, kLevels, 1>, block<kBits, kLevels, 2>, block<kBits, kLevels, 3>,
                                        block<kBits, kLevels, 4>, block<kBits, kLevels, 5>, block<kBits, kLevels, 6>,
                                        block<kBits, kLevels, 7>, block<kBits, kLevels, 8>};
#elif defined(CUTSET_ISA_avx2)
  constexpr Block kBlocks[kMostRows] = {block<kBits, kLevels, 1>, block<kBits, kLevels, 2>};
#else
  constexpr Block kBlocks[kMostRows] = {block<kBits, kLevels, 1>};
#endif
  return kBlocks[rows - 1];
}

Block block_for(const PanelForm& form, std::size_t rows) {
  if (form.levels) return block_of<4, true>(rows);
  if (form.bits == 4) return block_of<4, false>(rows);
  if (form.bits == 5) return block_of<5, false>(rows);
  return form.bits == 6 ? block_of<6, false>(rows) : block_of<8, false>(rows);
}

}  // namespace

void grouped_multiply(const GroupedJob& job) {
  constexpr std::size_t kRowsAtATime = 64;
  const PanelForm& form = *job.form;
  alignas(64) float totals[kRowsAtATime][kPanel];
  Factors factors;
  for (std::size_t at = 0; at < job.outputs; at += kPanel) {
    const std::uint8_t* panel = job.panels + at / kPanel * form.bytes;
    const std::size_t columns = job.outputs - at < kPanel ? job.outputs - at : kPanel;
    for (std::size_t row = 0; row < job.count; row += kRowsAtATime) {
      const std::size_t rows = job.count - row < kRowsAtATime ? job.count - row : kRowsAtATime;
      const std::size_t blocks = (rows + kMostRows - 1) / kMostRows;
      __builtin_memset(totals, 0, rows * sizeof totals[0]);
      for (std::size_t g = 0; g < form.groups; g += kGroupsAtATime) {
        const std::size_t count = form.groups - g < kGroupsAtATime ? form.groups - g : kGroupsAtATime;
        grouped_factors(form, panel, g, count, factors);
        for (std::size_t b = 0; b < blocks; ++b) {
          const std::size_t first = rows * b / blocks, end = rows * (b + 1) / blocks;
          const GroupedRows part = {job.rows.q + (row + first) * form.depth,
                                    job.rows.sums + (row + first) * form.groups, nullptr};
          block_for(form, end - first)(form, part, panel, g, count, factors, totals + first);
        }
      }
      for (std::size_t r = 0; r < rows; ++r) {
        const float scale = job.rows.scales[row + r];
        float* y = job.y + (row + r) * job.stride + at;
        for (std::size_t c = 0; c < columns; ++c) y[c] = totals[r][c] * scale;
      }
    }
  }
}

}  // namespace cutset::CUTSET_ISA
