// Products of grouped weights with few rows by the 8-bit dot product of AVX-512 VNNI: codes as unsigned bytes times the
// rows' integers in two signed ones.
#include "kernels/isa/grouped_bytes.h"

#if defined(CUTSET_ISA_avx512vnni)

namespace cutset::CUTSET_ISA {

namespace {

inline Ints four_at(const std::uint8_t* limbs) {
  std::int32_t four;
  __builtin_memcpy(&four, limbs, sizeof four);
  return splat_int(four);
}

template <std::size_t kRows>
using Sums = Ints[kRows][2][2];  // [row][limb][half of the outputs]

template <int kBits, bool kLevels, int kStep, std::size_t kRows>
inline __attribute__((always_inline)) void add_step(const std::uint8_t* slab, const std::uint8_t* limbs,
                                                    std::size_t stride, Ints table, Sums<kRows>& sums) {
  const Pair codes = bytes_of<kBits, kLevels, kStep>(slab, table);
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
    const std::uint8_t* at = limbs + 2 * r * stride + 4 * kStep;
    const Ints low = four_at(at), high = four_at(at + stride);
    sums[r][0][0] = _mm512_dpbusd_epi32(sums[r][0][0], codes.low, low);
    sums[r][0][1] = _mm512_dpbusd_epi32(sums[r][0][1], codes.high, low);
    sums[r][1][0] = _mm512_dpbusd_epi32(sums[r][1][0], codes.low, high);
    sums[r][1][1] = _mm512_dpbusd_epi32(sums[r][1][1], codes.high, high);
  }
}

// Two limbs make much work of each line, so that few are under way: they are fetched from far. Only on machines with
// tiles do the loads of one row alone keep memory busy, but for the ends of pages. (Distances found by measurement: on
// Zen 4 one row reads at 0.9 of what memory gives with this one, and at 0.7 with the other.)
template <std::size_t kRows>
inline void fetch_slab(const std::uint8_t* slab, int bits) {
#if defined(CUTSET_ISA_amx)
  constexpr std::size_t kFar = kRows == 1 ? 2048 : 6144;
#else
  constexpr std::size_t kFar = 6144;
#endif
  for (std::size_t at = 0; at < slab_bytes(bits); at += 64) __builtin_prefetch(slab + kFar + at, 0, 2);
}

template <int kBits, bool kLevels, std::size_t kRows>
void block(const PanelForm& form, const GroupedRows& rows, const std::uint8_t* panel, std::size_t first,
           std::size_t count, const Factors& factors, float (*totals)[kPanel]) {
  const Ints table = kLevels ? table_of(form.level) : splat_int(0);
  const std::size_t stride = limb_stride(form.depth);
  const bool minima = form.minima.kind != FactorKind::kNone;
  constexpr int kShift = kBits == 4 && !kLevels ? 4 : 8;  // of the upper limb
  for (std::size_t g = 0; g < count; ++g) {
    const std::size_t start = (first + g) * form.span;
    const std::size_t end = start + form.span < form.depth ? start + form.span : form.depth;
    const std::int32_t* group_sums = rows.sums + first + g;
    Sums<kRows> sums;
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) {
      sums[r][0][0] = sums[r][0][1] = splat_int(-form.zero * group_sums[r * form.groups]);
      sums[r][1][0] = sums[r][1][1] = splat_int(0);
    }
    if (form.zeros) {
#pragma GCC unroll 8
      for (std::size_t r = 0; r < kRows; ++r) {
        const Ints minus = splat_int(-group_sums[r * form.groups]);
        sums[r][0][0] = times(load_ints(factors.zeros[g]), minus);
        sums[r][0][1] = times(load_ints(factors.zeros[g] + 16), minus);
      }
    }
    const std::uint8_t* slab = panel + start / kSlab * slab_bytes(kBits);
    const std::uint8_t* limbs = rows.limbs + start;
    for (std::size_t k = start; k < end; k += kSlab, slab += slab_bytes(kBits), limbs += kSlab) {
      fetch_slab<kRows>(slab, kBits);
      add_step<kBits, kLevels, 0, kRows>(slab, limbs, stride, table, sums);
      add_step<kBits, kLevels, 1, kRows>(slab, limbs, stride, table, sums);
      add_step<kBits, kLevels, 2, kRows>(slab, limbs, stride, table, sums);
      add_step<kBits, kLevels, 3, kRows>(slab, limbs, stride, table, sums);
    }
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) {
      const Vec sum_of_q = splat(static_cast<float>(group_sums[r * form.groups]));
#pragma GCC unroll 2
      for (std::size_t half = 0; half < 2; ++half) {
        const Ints sum = add(sums[r][0][half], left<kShift>(sums[r][1][half]));
        float* at = totals[r] + 16 * half;
        Vec total = fma(to_floats(sum), load(factors.scales[g] + 16 * half), load(at));
        if (minima) total = fma(sum_of_q, load(factors.minima[g] + 16 * half), total);
        store(at, total);
      }
    }
  }
}

template <int kBits, bool kLevels>
GroupedBlock block_of(std::size_t rows) {
  constexpr GroupedBlock kBlocks[kMostBlockRows] = {block<kBits, kLevels, 1>, block<kBits, kLevels, 2>,
                                                    block<kBits, kLevels, 3>, block<kBits, kLevels, 4>,
                                                    block<kBits, kLevels, 5>, block<kBits, kLevels, 6>};
  return kBlocks[rows - 1];
}

}  // namespace

GroupedBlock grouped_block(const PanelForm& form, std::size_t rows) {
  if (form.levels) return block_of<4, true>(rows);
  if (form.bits == 4) return block_of<4, false>(rows);
  if (form.bits == 5) return block_of<5, false>(rows);
  return form.bits == 6 ? block_of<6, false>(rows) : block_of<8, false>(rows);
}

// An odd number of cache lines between limbs, so that they don't fall into the same sets of the cache.
std::size_t grouped_limb_bytes(const PanelForm& form) { return 2 * limb_stride(form.depth); }

void grouped_limbs(const PanelForm& form, const std::int16_t* q, std::uint8_t* limbs) {
  const std::size_t stride = limb_stride(form.depth);
  const __m128i order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
  const bool wide = wide_radix(form);
  const __m256i low_bits = _mm256_set1_epi16(wide ? 255 : 15), half = _mm256_set1_epi16(wide ? 128 : 0);
  const __m128i shift = _mm_cvtsi32_si128(wide ? 8 : 4);
  for (std::size_t k = 0; k < form.depth; k += kSlab) {
    const __m256i value = _mm256_add_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + k)), half);
    const __m128i low = _mm256_cvtepi16_epi8(_mm256_sub_epi16(_mm256_and_si256(value, low_bits), half));
    const __m128i high = _mm256_cvtepi16_epi8(_mm256_sra_epi16(value, shift));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(limbs + k), _mm_shuffle_epi8(low, order));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(limbs + stride + k), _mm_shuffle_epi8(high, order));
  }
}

}  // namespace cutset::CUTSET_ISA

#endif
