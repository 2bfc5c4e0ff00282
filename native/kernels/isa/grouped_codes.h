// Codes of grouped weights as integers: what a slab holds, widened to pairs of 16 bits. See kernels/grouped.h.
#pragma once

#include "kernels/isa/grouped.h"
#include "kernels/isa/ints.h"

namespace cutset::CUTSET_ISA {

#if defined(CUTSET_ISA_avx512) || defined(CUTSET_ISA_avx512vnni)
inline Ints times(Ints a, Ints b) { return _mm512_mullo_epi32(a, b); }
inline Ints looked_up(Ints table, Ints at) { return _mm512_shuffle_epi8(table, at); }
inline Ints table_of(const std::uint8_t* level) {
  std::uint8_t four[64];
  for (std::size_t i = 0; i < 64; i += 16) __builtin_memcpy(four + i, level, 16);
  return load_ints(four);
}
inline Vec exact_fma(Vec a, Vec b, Vec c) { return fma(a, b, c); }
#elif defined(CUTSET_ISA_avx2)
inline Ints times(Ints a, Ints b) { return _mm256_mullo_epi32(a, b); }
inline Ints looked_up(Ints table, Ints at) { return _mm256_shuffle_epi8(table, at); }
inline Ints table_of(const std::uint8_t* level) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(level)));
}
inline Vec exact_fma(Vec a, Vec b, Vec c) { return fma(a, b, c); }
#else
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

}  // namespace cutset::CUTSET_ISA
