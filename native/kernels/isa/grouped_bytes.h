// Codes of grouped weights as bytes, as the instructions for products of bytes take them. See kernels/grouped.h.
#pragma once

#include "kernels/isa/grouped_codes.h"

namespace cutset::CUTSET_ISA {

#if defined(CUTSET_ISA_avx512vnni)

struct Pair {
  Ints low, high;  // four columns of outputs 0 to 15, a byte each; the same of outputs 16 to 31
};

template <int kBy>
inline Ints moved(Ints bits) {
  if constexpr (kBy < 0) return right<-kBy>(bits);
  return left<(kBy < 0 ? 0 : kBy)>(bits);
}

// a | (b & mask)
inline Ints with_bits(Ints a, Ints b, std::int32_t mask) {
  return _mm512_ternarylogic_epi32(a, b, splat_int(mask), 0xF8);
}

// What step kStep of a slab has.
template <int kBits, bool kLevels, int kStep>
inline __attribute__((always_inline)) Pair bytes_of(const std::uint8_t* slab, Ints table) {
  if constexpr (kBits == 8) return {load_ints(slab + kStep * 128), load_ints(slab + kStep * 128 + 64)};
  const Ints x = load_ints(slab + kStep * 64), nibbles = splat_int(0x0F0F0F0F);
  Pair pair = {both(x, nibbles), both(right<4>(x), nibbles)};
  if constexpr (kLevels) pair = {looked_up(table, pair.low), looked_up(table, pair.high)};
  if constexpr (kBits == 5) {
    const Ints fifth = load_ints(slab + 256);
    constexpr std::int32_t kFirst = 0x00100010, kSecond = 0x10001000;
    pair.low = with_bits(pair.low, moved<4 - 4 * kStep>(fifth), kFirst);
    pair.low = with_bits(pair.low, moved<10 - 4 * kStep>(fifth), kSecond);
    pair.high = with_bits(pair.high, moved<3 - 4 * kStep>(fifth), kFirst);
    pair.high = with_bits(pair.high, moved<9 - 4 * kStep>(fifth), kSecond);
  }
  if constexpr (kBits == 6) {
    const Ints low = load_ints(slab + 256), high = load_ints(slab + 320);
    constexpr std::int32_t kFirst = 0x00300030, kSecond = 0x30003000;
    pair.low = with_bits(pair.low, moved<4 - 4 * kStep>(low), kFirst);
    pair.low = with_bits(pair.low, moved<10 - 4 * kStep>(low), kSecond);
    pair.high = with_bits(pair.high, moved<4 - 4 * kStep>(high), kFirst);
    pair.high = with_bits(pair.high, moved<10 - 4 * kStep>(high), kSecond);
  }
  return pair;
}

#endif

}  // namespace cutset::CUTSET_ISA
