// The moves of delta_moves.h with vectors: AVX2, and AVX-512 where it is better.
#pragma once

#include "kernels/isa/delta_moves.h"

namespace cutset::CUTSET_ISA {

// For each byte of a mask, as indices of a shuffle. `front`: the places of the bits that are set, first ones first.
// `rank`: how many are set before a place, or 0x80 where it isn't set itself.
struct Shuffles {
  std::uint8_t front[256][8];
  std::uint8_t rank[256][8];
};

constexpr Shuffles make_shuffles() {
  Shuffles made = {};
  for (int byte = 0; byte < 256; ++byte) {
    std::uint8_t set = 0;
    for (std::uint8_t place = 0; place < 8; ++place) {
      const bool here = byte >> place & 1;
      made.rank[byte][place] = here ? set : 0x80;
      if (here) made.front[byte][set++] = place;
    }
  }
  return made;
}

alignas(64) static constexpr Shuffles kShuffles = make_shuffles();

inline std::size_t byte_of(std::uint64_t word, std::size_t group) { return word >> 8 * group & 0xff; }
inline __m128i eight_bytes(const void* p) { return _mm_loadl_epi64(static_cast<const __m128i*>(p)); }
inline __m128i load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m256i load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
// Indices of 16-bit elements as indices of their bytes.
inline __m128i pairs(__m128i indices) {
  return _mm_add_epi16(_mm_mullo_epi16(indices, _mm_set1_epi16(0x0202)), _mm_set1_epi16(0x0100));
}

// Eight bytes or pairs of bytes at once, by table.

inline std::uint64_t pack_bytes(std::uint64_t word, std::size_t which) {
  const __m128i packed =
      _mm_shuffle_epi8(_mm_cvtsi64_si128(static_cast<long long>(word)), eight_bytes(kShuffles.front[which]));
  return static_cast<std::uint64_t>(_mm_cvtsi128_si64(packed));
}

inline std::uint64_t spread_bytes(std::uint64_t packed, std::size_t which) {
  const __m128i word =
      _mm_shuffle_epi8(_mm_cvtsi64_si128(static_cast<long long>(packed)), eight_bytes(kShuffles.rank[which]));
  return static_cast<std::uint64_t>(_mm_cvtsi128_si64(word));
}

inline void pack(const std::uint8_t* from, std::uint64_t word, std::uint8_t* to) {
  for (std::size_t group = 0; group < 8; ++group) {
    const std::size_t byte = byte_of(word, group);
    const __m128i packed = _mm_shuffle_epi8(eight_bytes(from + 8 * group), eight_bytes(kShuffles.front[byte]));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), packed);
    to += ones(byte);
  }
}

inline void spread(std::uint8_t* to, std::uint64_t word, const std::uint8_t* from) {
  for (std::size_t group = 0; group < 8; ++group, to += 8) {
    const std::size_t byte = byte_of(word, group);
    const __m128i rank = eight_bytes(kShuffles.rank[byte]);
    const __m128i mixed = _mm_blendv_epi8(_mm_shuffle_epi8(eight_bytes(from), rank), eight_bytes(to), rank);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), mixed);
    from += ones(byte);
  }
}

inline void pack(const std::uint16_t* from, std::uint64_t word, std::uint8_t* to) {
  for (std::size_t group = 0; group < 8; ++group) {
    const std::size_t byte = byte_of(word, group);
    const __m128i front = pairs(_mm_cvtepu8_epi16(eight_bytes(kShuffles.front[byte])));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_shuffle_epi8(load128(from + 8 * group), front));
    to += 2 * ones(byte);
  }
}

inline void spread(std::uint16_t* to, std::uint64_t word, const std::uint8_t* from) {
  for (std::size_t group = 0; group < 8; ++group, to += 8) {
    const std::size_t byte = byte_of(word, group);
    const __m128i rank = _mm_cvtepi8_epi16(eight_bytes(kShuffles.rank[byte]));
    const __m128i fresh = _mm_shuffle_epi8(load128(from), pairs(rank));
    const __m128i mixed = _mm_blendv_epi8(fresh, load128(to), _mm_srai_epi16(rank, 15));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), mixed);
    from += 2 * ones(byte);
  }
}

#if defined(CUTSET_ISA_avx2)

inline std::uint64_t low32(int mask) { return static_cast<std::uint32_t>(mask); }

inline std::uint64_t differ(const std::uint8_t* a, const std::uint8_t* b) {
  const int low = _mm256_movemask_epi8(_mm256_cmpeq_epi8(load256(a), load256(b)));
  const int high = _mm256_movemask_epi8(_mm256_cmpeq_epi8(load256(a + 32), load256(b + 32)));
  return ~(low32(low) | low32(high) << 32);
}

inline std::uint64_t differ(const std::uint16_t* a, const std::uint16_t* b) {
  std::uint64_t same = 0;
  for (std::size_t i = 0; i < kChunk; i += 32) {
    const __m256i low = _mm256_cmpeq_epi16(load256(a + i), load256(b + i));
    const __m256i high = _mm256_cmpeq_epi16(load256(a + i + 16), load256(b + i + 16));
    const __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi16(low, high), 0xd8);
    same |= low32(_mm256_movemask_epi8(both)) << i;
  }
  return ~same;
}

inline std::uint64_t differ(const std::uint32_t* a, const std::uint32_t* b) {
  std::uint64_t same = 0;
  for (std::size_t i = 0; i < kChunk; i += 8) {
    const __m256i equal = _mm256_cmpeq_epi32(load256(a + i), load256(b + i));
    same |= low32(_mm256_movemask_ps(_mm256_castsi256_ps(equal))) << i;
  }
  return ~same;
}

inline std::uint64_t differ(const std::uint64_t* a, const std::uint64_t* b) {
  std::uint64_t same = 0;
  for (std::size_t i = 0; i < kChunk; i += 4) {
    const __m256i equal = _mm256_cmpeq_epi64(load256(a + i), load256(b + i));
    same |= low32(_mm256_movemask_pd(_mm256_castsi256_pd(equal))) << i;
  }
  return ~same;
}

inline std::uint64_t floats_apart(const std::uint32_t* a, const std::uint32_t* b, float threshold) {
  const __m256 limit = _mm256_set1_ps(threshold), sign = _mm256_set1_ps(-0.0f);
  std::uint64_t near = 0;
  for (std::size_t i = 0; i < kChunk; i += 8) {
    const __m256i x = load256(a + i), y = load256(b + i);
    const __m256 distance = _mm256_andnot_ps(sign, _mm256_sub_ps(_mm256_castsi256_ps(y), _mm256_castsi256_ps(x)));
    const __m256 same = _mm256_castsi256_ps(_mm256_cmpeq_epi32(x, y));
    near |= low32(_mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(distance, limit, _CMP_LT_OQ), same))) << i;
  }
  return ~near;
}

inline std::uint64_t bytes_apart(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t threshold) {
  const __m256i limit = _mm256_set1_epi8(static_cast<char>(threshold));
  std::uint64_t near = 0;
  for (std::size_t i = 0; i < kChunk; i += 32) {
    const __m256i x = load256(a + i), y = load256(b + i);
    const __m256i distance = _mm256_or_si256(_mm256_subs_epu8(x, y), _mm256_subs_epu8(y, x));
    const __m256i within = _mm256_cmpeq_epi8(_mm256_subs_epu8(distance, limit), _mm256_setzero_si256());
    near |= low32(_mm256_movemask_epi8(within)) << i;
  }
  return ~near;
}

inline void pack(const std::uint32_t* from, std::uint64_t word, std::uint8_t* to) {
  for (std::size_t group = 0; group < 8; ++group) {
    const std::size_t byte = byte_of(word, group);
    const __m256i front = _mm256_cvtepu8_epi32(eight_bytes(kShuffles.front[byte]));
    const __m256i packed = _mm256_permutevar8x32_epi32(load256(from + 8 * group), front);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), packed);
    to += 4 * ones(byte);
  }
}

inline void spread(std::uint32_t* to, std::uint64_t word, const std::uint8_t* from) {
  for (std::size_t group = 0; group < 8; ++group, to += 8) {
    const std::size_t byte = byte_of(word, group);
    const __m256i rank = _mm256_cvtepi8_epi32(eight_bytes(kShuffles.rank[byte]));
    const __m256i fresh = _mm256_permutevar8x32_epi32(load256(from), rank);
    const __m256 mixed =
        _mm256_blendv_ps(_mm256_castsi256_ps(fresh), _mm256_castsi256_ps(load256(to)), _mm256_castsi256_ps(rank));
    _mm256_storeu_ps(reinterpret_cast<float*>(to), mixed);
    from += 4 * ones(byte);
  }
}

#else

inline std::uint64_t differ(const std::uint8_t* a, const std::uint8_t* b) {
  return _mm512_cmpneq_epi8_mask(_mm512_loadu_si512(a), _mm512_loadu_si512(b));
}

inline std::uint64_t differ(const std::uint16_t* a, const std::uint16_t* b) {
  const std::uint64_t low = _mm512_cmpneq_epi16_mask(_mm512_loadu_si512(a), _mm512_loadu_si512(b));
  const std::uint64_t high = _mm512_cmpneq_epi16_mask(_mm512_loadu_si512(a + 32), _mm512_loadu_si512(b + 32));
  return low | high << 32;
}

inline std::uint64_t differ(const std::uint32_t* a, const std::uint32_t* b) {
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < kChunk; i += 16) {
    const std::uint64_t part = _mm512_cmpneq_epi32_mask(_mm512_loadu_si512(a + i), _mm512_loadu_si512(b + i));
    word |= part << i;
  }
  return word;
}

inline std::uint64_t differ(const std::uint64_t* a, const std::uint64_t* b) {
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < kChunk; i += 8) {
    const std::uint64_t part = _mm512_cmpneq_epi64_mask(_mm512_loadu_si512(a + i), _mm512_loadu_si512(b + i));
    word |= part << i;
  }
  return word;
}

inline std::uint64_t floats_apart(const std::uint32_t* a, const std::uint32_t* b, float threshold) {
  const __m512 limit = _mm512_set1_ps(threshold);
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < kChunk; i += 16) {
    const __m512i x = _mm512_loadu_si512(a + i), y = _mm512_loadu_si512(b + i);
    const __m512 distance = _mm512_abs_ps(_mm512_sub_ps(_mm512_castsi512_ps(y), _mm512_castsi512_ps(x)));
    const __mmask16 other = _mm512_cmpneq_epi32_mask(x, y);
    word |= static_cast<std::uint64_t>(_mm512_mask_cmp_ps_mask(other, distance, limit, _CMP_NLT_UQ)) << i;
  }
  return word;
}

inline std::uint64_t bytes_apart(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t threshold) {
  const __m512i x = _mm512_loadu_si512(a), y = _mm512_loadu_si512(b);
  const __m512i distance = _mm512_sub_epi8(_mm512_max_epu8(x, y), _mm512_min_epu8(x, y));
  return _mm512_cmpgt_epu8_mask(distance, _mm512_set1_epi8(static_cast<char>(threshold)));
}

inline void pack(const std::uint32_t* from, std::uint64_t word, std::uint8_t* to) {
  for (std::size_t i = 0; i < kChunk; i += 16) {
    const auto part = static_cast<__mmask16>(word >> i);
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(part, _mm512_loadu_si512(from + i)));
    to += 4 * ones(part);
  }
}

inline void pack(const std::uint64_t* from, std::uint64_t word, std::uint8_t* to) {
  for (std::size_t i = 0; i < kChunk; i += 8) {
    const auto part = static_cast<__mmask8>(word >> i);
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi64(part, _mm512_loadu_si512(from + i)));
    to += 8 * ones(part);
  }
}

inline void spread(std::uint32_t* to, std::uint64_t word, const std::uint8_t* from) {
  for (std::size_t i = 0; i < kChunk; i += 16) {
    const auto part = static_cast<__mmask16>(word >> i);
    _mm512_mask_storeu_epi32(to + i, part, _mm512_maskz_expand_epi32(part, _mm512_loadu_si512(from)));
    from += 4 * ones(part);
  }
}

inline void spread(std::uint64_t* to, std::uint64_t word, const std::uint8_t* from) {
  for (std::size_t i = 0; i < kChunk; i += 8) {
    const auto part = static_cast<__mmask8>(word >> i);
    _mm512_mask_storeu_epi64(to + i, part, _mm512_maskz_expand_epi64(part, _mm512_loadu_si512(from)));
    from += 8 * ones(part);
  }
}

inline void copy(std::uint8_t* to, const std::uint8_t* from, std::uint64_t word) {
  _mm512_mask_storeu_epi8(to, word, _mm512_loadu_si512(from));
}

inline void copy(std::uint16_t* to, const std::uint16_t* from, std::uint64_t word) {
  _mm512_mask_storeu_epi16(to, static_cast<__mmask32>(word), _mm512_loadu_si512(from));
  _mm512_mask_storeu_epi16(to + 32, static_cast<__mmask32>(word >> 32), _mm512_loadu_si512(from + 32));
}

inline void copy(std::uint32_t* to, const std::uint32_t* from, std::uint64_t word) {
  for (std::size_t i = 0; i < kChunk; i += 16) {
    _mm512_mask_storeu_epi32(to + i, static_cast<__mmask16>(word >> i), _mm512_loadu_si512(from + i));
  }
}

inline void copy(std::uint64_t* to, const std::uint64_t* from, std::uint64_t word) {
  for (std::size_t i = 0; i < kChunk; i += 8) {
    _mm512_mask_storeu_epi64(to + i, static_cast<__mmask8>(word >> i), _mm512_loadu_si512(from + i));
  }
}

#endif

}  // namespace cutset::CUTSET_ISA
