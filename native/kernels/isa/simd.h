// One vector of floats, as the instruction set at hand has it. Included by the sources of this folder alone, which
// are compiled once for each instruction set: everything here lives in a namespace named after it, and nothing
// from the standard library's templates may be used (their shared symbols would mix instruction sets).
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define CUTSET_PASTE_(a, b) a##b
#define CUTSET_STRING_(a) #a
#define CUTSET_STRING(a) CUTSET_STRING_(a)

namespace cutset::CUTSET_ISA {

#if defined(CUTSET_ISA_avx512) || defined(CUTSET_ISA_avx512vnni)

constexpr std::size_t kLanes = 16;
using Vec = __m512;
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline Vec splat(float x) { return _mm512_set1_ps(x); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }

#elif defined(CUTSET_ISA_avx2)

constexpr std::size_t kLanes = 8;
using Vec = __m256;
inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline Vec splat(float x) { return _mm256_set1_ps(x); }
inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }

#else

constexpr std::size_t kLanes = 4;
typedef float Vec __attribute__((vector_size(16)));
inline Vec load(const float* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, Vec v) { __builtin_memcpy(p, &v, sizeof v); }
inline Vec splat(float x) { return Vec{x, x, x, x}; }
inline Vec add(Vec a, Vec b) { return a + b; }
inline Vec mul(Vec a, Vec b) { return a * b; }
inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }

#endif

// The sum of a vector's lanes, always in the same order.
inline float sum_lanes(Vec v) {
  float lanes[kLanes];
  store(lanes, v);
  for (std::size_t half = kLanes / 2; half > 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

}  // namespace cutset::CUTSET_ISA
