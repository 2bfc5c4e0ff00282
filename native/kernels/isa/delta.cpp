// Bit masks and values of what changed; one pass over the tensors.
#include "kernels/isa/delta.h"

#include "kernels/isa/delta_moves.h"

namespace cutset::CUTSET_ISA {

namespace {

// The first `bytes` bytes of a word of the mask. Read once: the barrier keeps the compiler from reading it again,
// because the mask may lie in memory that the other side writes to.
std::uint64_t read_word(const std::uint8_t* mask, std::size_t bytes = 8) {
  std::uint64_t word = 0;
  __builtin_memcpy(&word, mask, bytes);
  asm volatile("" : "+r"(word));
  return word;
}

// What counts as a change. `changed` looks at sixty-four elements, `keep` writes those that changed to held.

template <class T>
struct OtherBits {
  using Element = T;
  std::uint64_t changed(const T* held, const T* fresh) const { return differ(held, fresh); }
};

template <class T>
struct NotZero {
  using Element = T;
  std::uint64_t changed(const T*, const T* fresh) const {
    static constexpr T kZeros[kChunk] = {};
    return differ(kZeros, fresh);
  }
};

struct FloatsApart {
  using Element = std::uint32_t;
  float threshold;
  std::uint64_t changed(const std::uint32_t* held, const std::uint32_t* fresh) const {
    return floats_apart(held, fresh, threshold);
  }
};

struct BytesApart {
  using Element = std::uint8_t;
  std::uint8_t threshold;
  std::uint64_t changed(const std::uint8_t* held, const std::uint8_t* fresh) const {
    return bytes_apart(held, fresh, threshold);
  }
};

template <class Rule>
std::ptrdiff_t encode(const DeltaTask& task, const Rule& rule) {
  using T = typename Rule::Element;
  const T* fresh = static_cast<const T*>(task.fresh);
  T* held = task.held ? static_cast<T*>(task.held) : const_cast<T*>(fresh);  // without held the rule doesn't look at it
  const bool update = task.update && task.held;
  std::size_t found = 0, i = 0;
  for (; i + kChunk <= task.count; i += kChunk) {
    const std::uint64_t word = rule.changed(held + i, fresh + i);
    __builtin_memcpy(task.mask + i / 8, &word, 8);
    if (!word) continue;
    const std::size_t more = ones(word), left = task.room - found;
    std::uint8_t* to = task.values + found * sizeof(T);
    if (left >= kChunk) {
      pack(fresh + i, word, to);
    } else if (left >= more) {
      pack_each(fresh + i, word, to);
    } else {
      return -1;
    }
    found += more;
    if (update) copy(held + i, fresh + i, word);
  }
  if (const std::size_t rest = task.count - i) {  // filled up with zeros, which are equal under every rule
    T before[kChunk] = {}, after[kChunk] = {};
    __builtin_memcpy(before, held + i, rest * sizeof(T));
    __builtin_memcpy(after, fresh + i, rest * sizeof(T));
    const std::uint64_t word = rule.changed(before, after);
    __builtin_memcpy(task.mask + i / 8, &word, mask_bytes(rest));
    if (ones(word) > task.room - found) return -1;
    pack_each(after, word, task.values + found * sizeof(T));
    found += ones(word);
    if (update) copy_each(held + i, after, word);
  }
  return static_cast<std::ptrdiff_t>(found);
}

template <class T>
std::ptrdiff_t encode_bits(const DeltaTask& task) {
  return task.held ? encode(task, OtherBits<T>{}) : encode(task, NotZero<T>{});
}

// The mask names exactly `given` elements, all of them before `count`.
bool names(const std::uint8_t* mask, std::size_t count, std::size_t given) {
  std::size_t found = 0, i = 0;
  for (; i + kChunk <= count; i += kChunk) {
    std::uint64_t word;
    __builtin_memcpy(&word, mask + i / 8, 8);
    found += ones(word);
  }
  if (const std::size_t rest = count - i) {
    const std::uint64_t word = read_word(mask + i / 8, mask_bytes(rest));
    if (word >> rest) return false;
    found += ones(word);
  }
  return found == given;
}

template <class T>
int decode(void* target, std::size_t count, const std::uint8_t* mask, const std::uint8_t* values, std::size_t given) {
  if (!names(mask, count, given)) return 1;
  T* held = static_cast<T*>(target);
  std::size_t left = given, i = 0;
  for (; i + kChunk <= count; i += kChunk) {
    const std::uint64_t word = read_word(mask + i / 8);
    if (!word) continue;
    const std::size_t more = ones(word);
    if (left >= kChunk) {
      spread(held + i, word, values);
    } else if (left >= more) {
      spread_each(held + i, word, values);
    } else {
      return 2;
    }
    left -= more;
    values += more * sizeof(T);
  }
  if (const std::size_t rest = count - i) {
    const std::uint64_t word = read_word(mask + i / 8, mask_bytes(rest));
    if (word >> rest || ones(word) > left) return 2;
    spread_each(held + i, word, values);
    left -= ones(word);
  }
  return left ? 2 : 0;
}

template <class T>
int gather(const void* source, std::size_t count, const std::uint8_t* mask, std::uint8_t* values, std::size_t given) {
  if (!names(mask, count, given)) return 1;
  const T* held = static_cast<const T*>(source);
  std::size_t left = given;
  for (std::size_t i = 0; i < count; i += kChunk) {
    const std::size_t rest = count - i < kChunk ? count - i : kChunk;
    const std::uint64_t word = read_word(mask + i / 8, mask_bytes(rest));
    if (!word) continue;
    const std::size_t more = ones(word);
    if (more > left || (rest < kChunk && word >> rest)) return 2;
    if (left >= kChunk && rest == kChunk) {
      pack(held + i, word, values);
    } else {
      pack_each(held + i, word, values);
    }
    left -= more;
    values += more * sizeof(T);
  }
  return left ? 2 : 0;
}

}  // namespace

std::ptrdiff_t encode_u8(const DeltaTask& task) { return encode_bits<std::uint8_t>(task); }
std::ptrdiff_t encode_u16(const DeltaTask& task) { return encode_bits<std::uint16_t>(task); }
std::ptrdiff_t encode_u32(const DeltaTask& task) { return encode_bits<std::uint32_t>(task); }
std::ptrdiff_t encode_u64(const DeltaTask& task) { return encode_bits<std::uint64_t>(task); }

std::ptrdiff_t encode_near_f32(const DeltaTask& task, float threshold) { return encode(task, FloatsApart{threshold}); }
std::ptrdiff_t encode_near_u8(const DeltaTask& task, std::uint8_t threshold) {
  return encode(task, BytesApart{threshold});
}

int decode_u8(void* held, std::size_t count, const std::uint8_t* mask, const std::uint8_t* values, std::size_t given) {
  return decode<std::uint8_t>(held, count, mask, values, given);
}
int decode_u16(void* held, std::size_t count, const std::uint8_t* mask, const std::uint8_t* values, std::size_t given) {
  return decode<std::uint16_t>(held, count, mask, values, given);
}
int decode_u32(void* held, std::size_t count, const std::uint8_t* mask, const std::uint8_t* values, std::size_t given) {
  return decode<std::uint32_t>(held, count, mask, values, given);
}
int decode_u64(void* held, std::size_t count, const std::uint8_t* mask, const std::uint8_t* values, std::size_t given) {
  return decode<std::uint64_t>(held, count, mask, values, given);
}

int gather_u8(const void* held, std::size_t count, const std::uint8_t* mask, std::uint8_t* values, std::size_t given) {
  return gather<std::uint8_t>(held, count, mask, values, given);
}
int gather_u16(const void* held, std::size_t count, const std::uint8_t* mask, std::uint8_t* values, std::size_t given) {
  return gather<std::uint16_t>(held, count, mask, values, given);
}
int gather_u32(const void* held, std::size_t count, const std::uint8_t* mask, std::uint8_t* values, std::size_t given) {
  return gather<std::uint32_t>(held, count, mask, values, given);
}
int gather_u64(const void* held, std::size_t count, const std::uint8_t* mask, std::uint8_t* values, std::size_t given) {
  return gather<std::uint64_t>(held, count, mask, values, given);
}

}  // namespace cutset::CUTSET_ISA
