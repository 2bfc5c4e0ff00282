// More on vectors of floats: parts of a vector, extrema, division, the exponential.
#pragma once

#include "kernels/isa/simd.h"

namespace cutset::CUTSET_ISA {

#if defined(CUTSET_ISA_avx512) || defined(CUTSET_ISA_avx512vnni)

inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
inline Vec load_part(const float* p, std::size_t n) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
}
inline void store_part(float* p, Vec v, std::size_t n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), v);
}
// The larger and the smaller of each lane; b where either is not a number. (The maskz forms are the same instructions;
// gcc 12 warns of the plain ones.)
inline Vec larger(Vec a, Vec b) { return _mm512_maskz_max_ps(0xFFFF, a, b); }
inline Vec smaller(Vec a, Vec b) { return _mm512_maskz_min_ps(0xFFFF, a, b); }
// v, and 0 where x < limit.
inline Vec zero_below(Vec x, Vec limit, Vec v) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), v);
}
// 2^n of the whole number n in the low bits of the float `shifted` = 1.5 * 2^23 + n.
inline Vec power_of_two(Vec shifted) {
  const __m512i bits = _mm512_maskz_slli_epi32(0xFFFF, _mm512_castps_si512(shifted), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(bits, _mm512_set1_epi32(0x3F800000)));
}

// The largest lane.
inline float max_lanes(Vec v) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

#elif defined(CUTSET_ISA_avx2)

inline Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
inline __m256i first_lanes(std::size_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Vec load_part(const float* p, std::size_t n) { return _mm256_maskload_ps(p, first_lanes(n)); }
inline void store_part(float* p, Vec v, std::size_t n) { _mm256_maskstore_ps(p, first_lanes(n), v); }
inline Vec larger(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec smaller(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec zero_below(Vec x, Vec limit, Vec v) { return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_NLT_UQ), v); }
inline Vec power_of_two(Vec shifted) {
  const __m256i bits = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(bits, _mm256_set1_epi32(0x3F800000)));
}

inline float max_lanes(Vec v) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

#else

typedef std::uint32_t Bits __attribute__((vector_size(16)));
inline Vec sub(Vec a, Vec b) { return a - b; }
inline Vec div(Vec a, Vec b) { return a / b; }
inline Vec load_part(const float* p, std::size_t n) {
  Vec v = splat(0.0f);
  for (std::size_t i = 0; i < n; ++i) v[i] = p[i];
  return v;
}
inline void store_part(float* p, Vec v, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) p[i] = v[i];
}
inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }
inline Vec smaller(Vec a, Vec b) { return a < b ? a : b; }
inline Vec zero_below(Vec x, Vec limit, Vec v) { return x < limit ? splat(0.0f) : v; }
inline Vec power_of_two(Vec shifted) {
  Bits bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 23) + 0x3F800000u;
  Vec v;
  __builtin_memcpy(&v, &bits, sizeof v);
  return v;
}
inline float max_lanes(Vec v) {
  const float first = v[0] > v[1] ? v[0] : v[1];
  const float second = v[2] > v[3] ? v[2] : v[3];
  return first > second ? first : second;
}

#endif

constexpr float kInfinity = __builtin_inff();

// e^x to 1 ulp for x in [-87.33, 88]: 0 below, where results would be subnormal, and e^88 above. The polynomial and the
// splitting of ln 2 are those of Cephes' expf (S. L. Moshier).
inline Vec exp(Vec x) {
  const Vec lowest = splat(-87.3365447f);
  const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  const Vec clamped = smaller(splat(88.0f), larger(lowest, x));
  const Vec shifted = fma(clamped, splat(1.44269504f), magic);
  const Vec n = sub(shifted, magic);
  const Vec r = fma(n, splat(2.12194440e-4f), fma(n, splat(-0.693359375f), clamped));
  Vec p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = add(fma(p, mul(r, r), r), splat(1.0f));
  return zero_below(x, lowest, mul(p, power_of_two(shifted)));
}

inline float exp(float x) {
  float lanes[kLanes];
  store(lanes, exp(splat(x)));
  return lanes[0];
}

// tanh(x) to 1e-7, absolute.
inline Vec tanh(Vec x) {
  const Vec one = splat(1.0f);
  return sub(one, div(splat(2.0f), add(exp(add(x, x)), one)));
}

// Calls body(at, load, store) for each vector of a row of `count` floats; the last may be a part.
template <class Body>
inline void for_each_vec(std::size_t count, Body body) {
  const std::size_t whole = count / kLanes * kLanes;
  for (std::size_t i = 0; i < whole; i += kLanes) {
    body([i](const float* p) { return load(p + i); }, [i](float* p, Vec v) { store(p + i, v); });
  }
  if (const std::size_t rest = count - whole) {
    body([whole, rest](const float* p) { return load_part(p + whole, rest); },
         [whole, rest](float* p, Vec v) { store_part(p + whole, v, rest); });
  }
}

}  // namespace cutset::CUTSET_ISA
