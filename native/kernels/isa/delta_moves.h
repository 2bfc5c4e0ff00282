// Sixty-four elements at a time: which of them differ, packing those, and spreading them out again. A word has a bit
// for each element, the first one lowest.
#pragma once

#include "kernels/isa/simd.h"

namespace cutset::CUTSET_ISA {

constexpr std::size_t kChunk = 64;

inline std::size_t ones(std::uint64_t word) { return static_cast<std::size_t>(__builtin_popcountll(word)); }
inline std::size_t lowest(std::uint64_t word) { return static_cast<std::size_t>(__builtin_ctzll(word)); }

// One by one, for what is short and for where nothing better is known.

template <class T>
std::uint64_t differ_each(const T* a, const T* b) {
  if (__builtin_memcmp(a, b, kChunk * sizeof(T)) == 0) return 0;
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < kChunk; ++i) word |= static_cast<std::uint64_t>(a[i] != b[i]) << i;
  return word;
}

template <class T>
void pack_each(const T* from, std::uint64_t word, std::uint8_t* to) {
  for (; word; word &= word - 1, to += sizeof(T)) __builtin_memcpy(to, from + lowest(word), sizeof(T));
}

template <class T>
void spread_each(T* to, std::uint64_t word, const std::uint8_t* from) {
  for (; word; word &= word - 1, from += sizeof(T)) __builtin_memcpy(to + lowest(word), from, sizeof(T));
}

template <class T>
void copy_each(T* to, const T* from, std::uint64_t word) {
  for (; word; word &= word - 1) to[lowest(word)] = from[lowest(word)];
}

// pack writes and spread reads up to sixty-four elements, however few bits are set.

template <class T>
std::uint64_t differ(const T* a, const T* b) {
  return differ_each(a, b);
}
template <class T>
void pack(const T* from, std::uint64_t word, std::uint8_t* to) {
  pack_each(from, word, to);
}
template <class T>
void spread(T* to, std::uint64_t word, const std::uint8_t* from) {
  spread_each(to, word, from);
}
template <class T>
void copy(T* to, const T* from, std::uint64_t word) {
  copy_each(to, from, word);
}

// Elements that aren't near each other; see kernels/delta.h. Floats come as their bits.

inline std::uint64_t floats_apart_each(const std::uint32_t* a, const std::uint32_t* b, float threshold) {
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < kChunk; ++i) {
    float x, y;
    __builtin_memcpy(&x, a + i, sizeof x);
    __builtin_memcpy(&y, b + i, sizeof y);
    const bool near = __builtin_fabsf(y - x) < threshold || a[i] == b[i];
    word |= static_cast<std::uint64_t>(!near) << i;
  }
  return word;
}

inline std::uint64_t bytes_apart_each(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t threshold) {
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < kChunk; ++i) {
    const int distance = a[i] < b[i] ? b[i] - a[i] : a[i] - b[i];
    word |= static_cast<std::uint64_t>(distance > threshold) << i;
  }
  return word;
}

// The bytes of a word that aren't zero, as bits.
inline std::size_t filled(std::uint64_t word) {
  constexpr std::uint64_t kLow = 0x7f7f7f7f7f7f7f7f;
  const std::uint64_t tops = (((word & kLow) + kLow) | word) & ~kLow;
  return ((tops >> 7) * 0x0102040810204080) >> 56;
}

#if !defined(CUTSET_ISA_avx2) && !defined(CUTSET_ISA_avx512) && !defined(CUTSET_ISA_avx512vnni)
inline std::uint64_t floats_apart(const std::uint32_t* a, const std::uint32_t* b, float threshold) {
  return floats_apart_each(a, b, threshold);
}
inline std::uint64_t bytes_apart(const std::uint8_t* a, const std::uint8_t* b, std::uint8_t threshold) {
  return bytes_apart_each(a, b, threshold);
}

// The bytes of `word` that `which` names, first ones first, with zeros or anything after them; and back, with zeros
// between.
inline std::uint64_t pack_bytes(std::uint64_t word, std::size_t which) {
  std::uint64_t packed = 0;
  for (std::size_t at = 0; which; which &= which - 1, at += 8) packed |= (word >> 8 * lowest(which) & 0xff) << at;
  return packed;
}

inline std::uint64_t spread_bytes(std::uint64_t packed, std::size_t which) {
  std::uint64_t word = 0;
  for (; which; which &= which - 1, packed >>= 8) word |= (packed & 0xff) << 8 * lowest(which);
  return word;
}
#endif

}  // namespace cutset::CUTSET_ISA

#if defined(CUTSET_ISA_avx2) || defined(CUTSET_ISA_avx512) || defined(CUTSET_ISA_avx512vnni)
#include "kernels/isa/delta_moves_x86.h"
#endif
