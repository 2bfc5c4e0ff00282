// One vector of 32-bit integers, as many as a Vec has floats. Additions and shifts wrap; names say where a lane counts
// as signed. See simd.h for what may be included here.
#pragma once

#include "kernels/isa/simd.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 about its own _mm512_undefined_epi32
#endif

namespace cutset::CUTSET_ISA {

#if defined(CUTSET_ISA_avx512) || defined(CUTSET_ISA_avx512vnni)

using Ints = __m512i;
inline Ints load_ints(const void* p) { return _mm512_loadu_si512(p); }
// Of memory that someone else may write to meanwhile: whatever is done with the value, it is read once.
inline Ints read_once(const void* p) { return *static_cast<const volatile __m512i_u*>(p); }
inline void store_ints(void* p, Ints v) { _mm512_storeu_si512(p, v); }
// Past the caches, to an address that is a multiple of a vector's size; `stored` before anyone is told.
inline void store_past(void* p, Ints v) { _mm512_stream_si512(static_cast<__m512i*>(p), v); }
inline void stored() { _mm_sfence(); }
inline Ints splat_int(std::int32_t x) { return _mm512_set1_epi32(x); }
inline Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
inline Ints sub(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
inline Ints both(Ints a, Ints b) { return _mm512_and_si512(a, b); }
inline Ints either(Ints a, Ints b) { return _mm512_or_si512(a, b); }
template <int kBits>
inline Ints left(Ints a) {
  return _mm512_maskz_slli_epi32(0xFFFF, a, kBits);
}
template <int kBits>
inline Ints right(Ints a) {
  return _mm512_srli_epi32(a, kBits);
}
template <int kBits>
inline Ints right_signed(Ints a) {
  return _mm512_srai_epi32(a, kBits);
}
inline Ints least_unsigned(Ints a, Ints b) { return _mm512_min_epu32(a, b); }
inline Ints size_of(Ints a) { return _mm512_abs_epi32(a); }
// a - c where a > b, signed; a elsewhere.
inline Ints sub_where_greater(Ints a, Ints b, Ints c) {
  return _mm512_mask_sub_epi32(a, _mm512_cmpgt_epi32_mask(a, b), a, c);
}
// A bit for each lane where a > most, unsigned.
inline unsigned exceeding(Ints a, Ints most) { return _mm512_cmpgt_epu32_mask(a, most); }
// Lower 16 bits of a, upper 16 bits of b.
inline Ints halves(Ints low, Ints high) { return _mm512_mask_blend_epi16(0x55555555u, high, low); }
// sum + the products of the lanes' halves, all signed 16 bits.
inline Ints dot_halves(Ints sum, Ints a, Ints b) {
#if defined(CUTSET_ISA_avx512vnni)
  return _mm512_dpwssd_epi32(sum, a, b);
#else
  return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#endif
}
inline Ints widen(const std::int16_t* p) {
  return _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Ints widen(const std::int8_t* p) {
  return _mm512_maskz_cvtepi8_epi32(0xFFFF, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Vec to_floats(Ints a) { return _mm512_maskz_cvtepi32_ps(0xFFFF, a); }
inline Ints as_bits(Vec a) { return _mm512_castps_si512(a); }
inline Vec as_floats(Ints a) { return _mm512_castsi512_ps(a); }

#elif defined(CUTSET_ISA_avx2)

using Ints = __m256i;
inline Ints load_ints(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline Ints read_once(const void* p) { return *static_cast<const volatile __m256i_u*>(p); }
inline void store_ints(void* p, Ints v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
inline void store_past(void* p, Ints v) { _mm256_stream_si256(static_cast<__m256i*>(p), v); }
inline void stored() { _mm_sfence(); }
inline Ints splat_int(std::int32_t x) { return _mm256_set1_epi32(x); }
inline Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
inline Ints sub(Ints a, Ints b) { return _mm256_sub_epi32(a, b); }
inline Ints both(Ints a, Ints b) { return _mm256_and_si256(a, b); }
inline Ints either(Ints a, Ints b) { return _mm256_or_si256(a, b); }
template <int kBits>
inline Ints left(Ints a) {
  return _mm256_slli_epi32(a, kBits);
}
template <int kBits>
inline Ints right(Ints a) {
  return _mm256_srli_epi32(a, kBits);
}
template <int kBits>
inline Ints right_signed(Ints a) {
  return _mm256_srai_epi32(a, kBits);
}
inline Ints least_unsigned(Ints a, Ints b) { return _mm256_min_epu32(a, b); }
inline Ints size_of(Ints a) { return _mm256_abs_epi32(a); }
inline Ints sub_where_greater(Ints a, Ints b, Ints c) {
  return _mm256_sub_epi32(a, _mm256_and_si256(_mm256_cmpgt_epi32(a, b), c));
}
inline unsigned exceeding(Ints a, Ints most) {
  const __m256i within = _mm256_cmpeq_epi32(_mm256_min_epu32(a, most), a);
  return ~static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(within))) & 0xFFu;
}
inline Ints halves(Ints low, Ints high) { return _mm256_blend_epi16(high, low, 0x55); }
inline Ints dot_halves(Ints sum, Ints a, Ints b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
inline Ints widen(const std::int16_t* p) {
  return _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Ints widen(const std::int8_t* p) {
  return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
inline Vec to_floats(Ints a) { return _mm256_cvtepi32_ps(a); }
inline Ints as_bits(Vec a) { return _mm256_castps_si256(a); }
inline Vec as_floats(Ints a) { return _mm256_castsi256_ps(a); }

#else

typedef std::uint32_t Ints __attribute__((vector_size(16)));
typedef std::int32_t SignedInts __attribute__((vector_size(16)));
typedef std::uint32_t LooseInts __attribute__((vector_size(16), aligned(4), may_alias));
inline SignedInts as_signed(Ints a) { return reinterpret_cast<SignedInts>(a); }
inline Ints as_ints(SignedInts a) { return reinterpret_cast<Ints>(a); }
inline Ints load_ints(const void* p) {
  Ints v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline Ints read_once(const void* p) { return *static_cast<const volatile LooseInts*>(p); }
inline void store_ints(void* p, Ints v) { __builtin_memcpy(p, &v, sizeof v); }
inline void store_past(void* p, Ints v) { store_ints(p, v); }
inline void stored() {}
inline Ints splat_int(std::int32_t x) {
  const std::uint32_t u = static_cast<std::uint32_t>(x);
  return Ints{u, u, u, u};
}
inline Ints add(Ints a, Ints b) { return a + b; }
inline Ints sub(Ints a, Ints b) { return a - b; }
inline Ints both(Ints a, Ints b) { return a & b; }
inline Ints either(Ints a, Ints b) { return a | b; }
template <int kBits>
inline Ints left(Ints a) {
  return a << kBits;
}
template <int kBits>
inline Ints right(Ints a) {
  return a >> kBits;
}
template <int kBits>
inline Ints right_signed(Ints a) {
  return as_ints(as_signed(a) >> kBits);
}
inline Ints least_unsigned(Ints a, Ints b) {
  const Ints less = as_ints(a < b);
  return (a & less) | (b & ~less);
}
inline Ints size_of(Ints a) {
  const Ints sign = right_signed<31>(a);
  return (a ^ sign) - sign;
}
inline Ints sub_where_greater(Ints a, Ints b, Ints c) { return a - (as_ints(as_signed(a) > as_signed(b)) & c); }
inline unsigned exceeding(Ints a, Ints most) {
  unsigned bits = 0;
  for (unsigned i = 0; i < kLanes; ++i) bits |= (a[i] > most[i] ? 1u : 0u) << i;
  return bits;
}
inline Ints halves(Ints low, Ints high) { return (low & 0xFFFFu) | (high & 0xFFFF0000u); }
inline Ints dot_halves(Ints sum, Ints a, Ints b) {
  return sum + right_signed<16>(a << 16) * right_signed<16>(b << 16) + right_signed<16>(a) * right_signed<16>(b);
}
template <class Integer>
inline Ints widen(const Integer* p) {
  Ints v;
  for (std::size_t i = 0; i < kLanes; ++i) v[i] = static_cast<std::uint32_t>(static_cast<std::int32_t>(p[i]));
  return v;
}
inline Vec to_floats(Ints a) { return __builtin_convertvector(as_signed(a), Vec); }
inline Vec as_floats(Ints a) {
  Vec v;
  __builtin_memcpy(&v, &a, sizeof v);
  return v;
}
inline Ints as_bits(Vec a) {
  Ints bits;
  __builtin_memcpy(&bits, &a, sizeof bits);
  return bits;
}

#endif

// The sum of the lanes as signed numbers.
inline std::int64_t sum_signed(Ints a) {
  std::int32_t lane[kLanes];
  store_ints(lane, a);
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < kLanes; ++i) sum += lane[i];
  return sum;
}

}  // namespace cutset::CUTSET_ISA
