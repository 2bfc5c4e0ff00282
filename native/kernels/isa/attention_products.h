// The two products of attention, queries with keys and weights with values, in tiles that stay in registers.
//
// However many queries and tokens a tile has, each element of the result is one chain of fma in the order of
// dimensions (scores) or tokens (values). So the shape of a tile never shows in a result.
#pragma once

#include "kernels/glue.h"
#include "kernels/isa/simd_math.h"

namespace cutset::CUTSET_ISA {

constexpr std::size_t kPackVecs = kPackTokens / kLanes;
constexpr std::size_t kTilePacks = kKeyTile / kPackTokens;

// Queries of a register tile, and how many packs wide it is when they are few or many.
#if defined(CUTSET_ISA_avx512) || defined(CUTSET_ISA_avx512vnni)
constexpr int kMostQueries = 6;
constexpr int wide(int queries) { return queries > 0 ? 4 : 0; }
#elif defined(CUTSET_ISA_avx2)
constexpr int kMostQueries = 6;
constexpr int wide(int queries) { return queries <= 1 ? 4 : queries <= 3 ? 2 : 1; }
#else
constexpr int kMostQueries = 3;
constexpr int wide(int queries) { return queries <= 1 ? 2 : 1; }
#endif

// Elements of the cache as a vector: floats, or codes of 8 bits, which become floats without rounding.
inline Vec load_cached(const float* p) { return load(p); }
#if defined(CUTSET_ISA_avx512) || defined(CUTSET_ISA_avx512vnni)
inline Vec load_cached(const std::int8_t* p) {  // the maskz forms: see simd_math.h
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm512_maskz_cvtepi32_ps(0xFFFF, _mm512_maskz_cvtepi8_epi32(0xFFFF, bytes));
}
#elif defined(CUTSET_ISA_avx2)
inline Vec load_cached(const std::int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
#elif defined(__x86_64__)
inline Vec load_cached(const std::int8_t* p) {  // SSE2 has no conversion of bytes
  int bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  __m128i x = _mm_cvtsi32_si128(bits);
  x = _mm_unpacklo_epi8(x, x);
  x = _mm_unpacklo_epi16(x, x);
  return _mm_cvtepi32_ps(_mm_srai_epi32(x, 24));
}
#else
inline Vec load_cached(const std::int8_t* p) {
  typedef std::int8_t Bytes __attribute__((vector_size(4)));
  Bytes bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  return __builtin_convertvector(bytes, Vec);
}
#endif

// A number of queries as a type.
template <int Q>
struct Count {
  static constexpr int value = Q;
};

// scores[q][token of pack p] = sum over d of queries[d][q] * packs[p][d][token]
//   queries: (head_dim, kQueryTile), scores: (Q, kKeyTile)
// Few queries wait for memory: then the packs at `fetch` are asked for meanwhile, line by line.
template <int Q, int P, bool Fetch, class T>
inline void score_packs(const float* queries, const T* const* packs, const T* const* fetch, std::size_t head_dim,
                        float* scores) {
  constexpr int kVecs = P * static_cast<int>(kPackVecs);
  Vec sums[Q][kVecs];
#pragma GCC unroll 16
  for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) sums[q][v] = splat(0.0f);
  }
  const T* pack[P];
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) pack[p] = packs[p];
  for (std::size_t d = 0; d < head_dim; ++d) {
    if (Fetch && d % (sizeof(float) / sizeof(T)) == 0) {
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) __builtin_prefetch(fetch[p] + d * kPackTokens);
    }
    Vec keys[kVecs];
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) {
      keys[v] = load_cached(pack[v / static_cast<int>(kPackVecs)] + d * kPackTokens +
                            v % static_cast<int>(kPackVecs) * kLanes);
    }
#pragma GCC unroll 16
    for (int q = 0; q < Q; ++q) {
      const Vec query = splat(queries[d * kQueryTile + q]);
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) sums[q][v] = fma(query, keys[v], sums[q][v]);
    }
  }
#pragma GCC unroll 16
  for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) store(scores + q * kKeyTile + v * kLanes, sums[q][v]);
  }
}

// sums[q][0 .. 16 C) += sum over tokens from .. to of weights[q][token] * values[token]
//   weights: (Q, kKeyTile), packs: 16 tokens of `padded` elements each, sums: (Q, padded + 16)
// The packs at `fetch`, of the same size, are asked for meanwhile.
template <int Q, int C, bool Fetch, class T>
inline void add_values(const float* weights, const T* const* packs, const T* const* fetch, std::size_t column,
                       std::size_t padded, std::size_t from, std::size_t to, float* sums) {
  constexpr int kVecs = C * static_cast<int>(kPackVecs);
  Vec acc[Q][kVecs];
#pragma GCC unroll 16
  for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) acc[q][v] = load(sums + q * (padded + kStateMore) + column + v * kLanes);
  }
  for (std::size_t token = from; token < to;) {
    const std::size_t pack = token / kPackTokens;
    const T* value = packs[pack] + token % kPackTokens * padded + column;
    // Each token's share of it: as many bytes as are read here.
    const T* coming = Fetch ? fetch[pack] + (column * kPackTokens + token % kPackTokens * C * kPackTokens) : value;
    const std::size_t pack_end = (pack + 1) * kPackTokens;
    const std::size_t end = to < pack_end ? to : pack_end;
    for (; token < end; ++token, value += padded, coming += C * kPackTokens) {
      if constexpr (Fetch) {
#pragma GCC unroll 4
        for (std::size_t at = 0; at < C * kPackTokens * sizeof(T); at += 64) {
          __builtin_prefetch(coming + at / sizeof(T));
        }
      }
      Vec values[kVecs];
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) values[v] = load_cached(value + v * kLanes);
#pragma GCC unroll 16
      for (int q = 0; q < Q; ++q) {
        const Vec weight = splat(weights[q * kKeyTile + token]);
#pragma GCC unroll 16
        for (int v = 0; v < kVecs; ++v) acc[q][v] = fma(weight, values[v], acc[q][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) store(sums + q * (padded + kStateMore) + column + v * kLanes, acc[q][v]);
  }
}

// score_packs over the packs first .. last of a tile.
template <int Q, bool Fetch, class T>
inline void score_queries(const float* queries, const T* const* packs, const T* const* fetch, std::size_t first,
                          std::size_t last, std::size_t head_dim, float* scores) {
  std::size_t p = first;
  for (; p + wide(Q) <= last; p += wide(Q)) {
    score_packs<Q, wide(Q), Fetch>(queries, packs + p, fetch + p, head_dim, scores + p * kPackTokens);
  }
  for (; p < last; ++p) score_packs<Q, 1, Fetch>(queries, packs + p, fetch + p, head_dim, scores + p * kPackTokens);
}

// add_values over all columns.
template <int Q, bool Fetch = false, class T>
inline void add_all_values(const float* weights, const T* const* packs, const T* const* fetch, std::size_t padded,
                           std::size_t from, std::size_t to, float* sums) {
  if (from >= to) return;
  std::size_t column = 0;
  for (; column + wide(Q) * kPackTokens <= padded; column += wide(Q) * kPackTokens) {
    add_values<Q, wide(Q), Fetch>(weights, packs, fetch, column, padded, from, to, sums);
  }
  for (; column < padded; column += kPackTokens) {
    add_values<Q, 1, Fetch>(weights, packs, fetch, column, padded, from, to, sums);
  }
}

}  // namespace cutset::CUTSET_ISA
