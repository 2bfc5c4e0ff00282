// Floats of 16 bits as float32, which holds all of them.
#pragma once

#include "kernels/isa/ints.h"

namespace cutset::CUTSET_ISA {

// `words`: kLanes numbers of 16 bits beside each other, at any address.
#if defined(CUTSET_ISA_avx512) || defined(CUTSET_ISA_avx512vnni)

inline Vec widen_bfloat16(const void* words) {
  const __m256i halves = _mm256_loadu_si256(static_cast<const __m256i*>(words));
  return as_floats(_mm512_maskz_slli_epi32(0xFFFF, _mm512_maskz_cvtepu16_epi32(0xFFFF, halves), 16));
}
inline Vec widen_float16(const void* words) {
  return _mm512_maskz_cvtph_ps(0xFFFF, _mm256_loadu_si256(static_cast<const __m256i*>(words)));
}

#elif defined(CUTSET_ISA_avx2)

inline Vec widen_bfloat16(const void* words) {
  const __m128i halves = _mm_loadu_si128(static_cast<const __m128i*>(words));
  return as_floats(left<16>(_mm256_cvtepu16_epi32(halves)));
}
inline Vec widen_float16(const void* words) {
  return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(words)));
}

#else

typedef std::uint16_t Words __attribute__((vector_size(8)));
inline Ints words_of(const void* words) {
  Words each;
  __builtin_memcpy(&each, words, sizeof each);
  return __builtin_convertvector(each, Ints);
}
inline Vec widen_bfloat16(const void* words) { return as_floats(left<16>(words_of(words))); }
// Exponent and fraction move into place and are multiplied by 2^112, which makes subnormal numbers normal.
inline Vec widen_float16(const void* words) {
  const Ints bits = words_of(words);
  const Ints size = as_bits(mul(as_floats(left<13>(bits & 0x7FFFu)), splat(0x1p112f)));
  const Ints endless = as_ints((bits & 0x7C00u) == 0x7C00u) & 0x7F800000u;  // infinities, and what is no number
  return as_floats(size | endless | left<16>(bits & 0x8000u));
}

#endif

}  // namespace cutset::CUTSET_ISA
