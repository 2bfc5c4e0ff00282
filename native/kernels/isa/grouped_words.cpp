// Products of grouped weights by pairs of 16-bit integers: codes widened to 16 bits times the rows' integers.
#include "kernels/isa/grouped_codes.h"

#if !defined(CUTSET_ISA_avx512vnni)

namespace cutset::CUTSET_ISA {

namespace {

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

template <int kBits, bool kLevels>
GroupedBlock block_of(std::size_t rows) {
#if defined(CUTSET_ISA_avx512)
  constexpr GroupedBlock kBlocks[kMostBlockRows] = {
      block<kBits, kLevels, 1>, block<kBits, kLevels, 2>, block<kBits, kLevels, 3>, block<kBits, kLevels, 4>,
      block<kBits, kLevels, 5>, block<kBits, kLevels, 6>, block<kBits, kLevels, 7>, block<kBits, kLevels, 8>};
#elif defined(CUTSET_ISA_avx2)
  constexpr GroupedBlock kBlocks[kMostBlockRows] = {block<kBits, kLevels, 1>, block<kBits, kLevels, 2>};
#else
  constexpr GroupedBlock kBlocks[kMostBlockRows] = {block<kBits, kLevels, 1>};
#endif
  return kBlocks[rows - 1];
}

}  // namespace

GroupedBlock grouped_block(const PanelForm& form, std::size_t rows) {
  if (form.levels) return block_of<4, true>(rows);
  if (form.bits == 4) return block_of<4, false>(rows);
  if (form.bits == 5) return block_of<5, false>(rows);
  return form.bits == 6 ? block_of<6, false>(rows) : block_of<8, false>(rows);
}

}  // namespace cutset::CUTSET_ISA

#endif
