// Nested masks: a mask without its zeros.
#include "kernels/isa/delta.h"
#include "kernels/isa/delta_moves.h"

namespace cutset::CUTSET_ISA {

namespace {

// Up to eight bytes as a word, the first one lowest. The barrier keeps the compiler from reading them again.
std::uint64_t word_at(const std::uint8_t* p, std::size_t bytes) {
  std::uint64_t word = 0;
  if (bytes >= 8) {
    __builtin_memcpy(&word, p, 8);
  } else {
    __builtin_memcpy(&word, p, bytes);
  }
  asm volatile("" : "+r"(word));
  return word;
}

}  // namespace

std::size_t nest(const std::uint8_t* mask, std::size_t bytes, std::uint8_t* out) {
  const std::size_t words = (bytes + 7) / 8;
  std::uint8_t* const top = out;
  std::uint8_t* to = out + (words + 7) / 8;
  for (std::size_t first = 0; first < words; first += 8) {
    const std::size_t last = words - first < 8 ? words : first + 8;
    unsigned there = 0;
    for (std::size_t w = first; w < last; ++w) {
      const std::uint64_t word = word_at(mask + 8 * w, bytes - 8 * w);
      if (!word) continue;
      there |= 1u << (w - first);
      const std::size_t which = filled(word);
      *to++ = static_cast<std::uint8_t>(which);
      const std::uint64_t packed = pack_bytes(word, which);
      __builtin_memcpy(to, &packed, 8);
      to += ones(which);
    }
    top[first / 8] = static_cast<std::uint8_t>(there);
  }
  return static_cast<std::size_t>(to - out);
}

bool unnest(const std::uint8_t* nested, std::size_t length, std::uint8_t* mask, std::size_t bytes) {
  const std::size_t words = (bytes + 7) / 8;
  std::size_t at = (words + 7) / 8;
  if (length < at) return false;
  for (std::size_t first = 0; first < words; first += 8) {
    const std::size_t last = words - first < 8 ? words : first + 8;
    const std::uint64_t there = word_at(nested + first / 8, 1);
    if (there >> (last - first)) return false;
    for (std::size_t w = first; w < last; ++w) {
      std::uint64_t word = 0;
      if (there >> (w - first) & 1) {
        if (at == length) return false;
        const auto which = static_cast<std::size_t>(word_at(nested + at++, 1));
        const std::size_t more = ones(which);
        if (!more || more > length - at) return false;
        word = spread_bytes(word_at(nested + at, length - at), which);
        if (filled(word) != which) return false;
        at += more;
      }
      if (bytes - 8 * w >= 8) {
        __builtin_memcpy(mask + 8 * w, &word, 8);
      } else {
        if (word >> 8 * (bytes - 8 * w)) return false;
        __builtin_memcpy(mask + 8 * w, &word, bytes - 8 * w);
      }
    }
  }
  return at == length;
}

}  // namespace cutset::CUTSET_ISA
