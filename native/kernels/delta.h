// What changed between two tensors: a bit for each element, and the new values of those that changed.
//
// Element i is bit i % 8 of byte i / 8; the bits after the last element are zero. Elements of 1, 2, 4 or 8 bytes are
// compared as bits, so that -0.0 isn't 0.0 and a NaN is itself. Values follow one another, in order.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cutset {

constexpr std::size_t mask_bytes(std::size_t count) { return (count + 7) / 8; }

// A nested mask leaves out zeros. A bit for each word of eight bytes of the mask, lowest first, in whole bytes: whether
// one of them isn't zero. Then for each such word a byte that says which, and those.
constexpr std::size_t nested_bytes(std::size_t words) { return (words + 7) / 8 + 9 * words; }  // at most
constexpr std::size_t kNestSlack = 8;  // bytes that may be written after them

// The place of an element size in the tables below: 1, 2, 4 and 8 bytes at 0 to 3, another one at 4.
constexpr std::size_t width_place(std::size_t bytes) {
  return bytes == 1 ? 0 : bytes == 2 ? 1 : bytes == 4 ? 2 : bytes == 8 ? 3 : 4;
}

struct DeltaTask {
  void* held;         // (count), aligned; what the receiver holds; nullptr: zeros
  const void* fresh;  // (count), aligned; the new tensor
  std::size_t count;
  bool update;           // writes fresh to held where it changed
  std::uint8_t* mask;    // mask_bytes(count)
  std::uint8_t* values;  // `room` elements, aligned or not; nothing is written beyond them
  std::size_t room;
};

struct DeltaKernels {
  // How many changed; or -1 as soon as there are more than `room`: mask and values are of no use then, and held may be
  // partly updated.
  std::ptrdiff_t (*encode[4])(const DeltaTask& task);
  // The same where an element hasn't changed as long as it is near enough: float32 with |fresh - held| < threshold as
  // computed, so that |fresh - held| <= threshold exactly; or bytes with |fresh - held| <= threshold. What isn't a
  // number is near nothing but itself.
  std::ptrdiff_t (*encode_near_f32)(const DeltaTask& task, float threshold);
  std::ptrdiff_t (*encode_near_u8)(const DeltaTask& task, std::uint8_t threshold);
  // Writes `given` values to the places in held that the mask names. 0: done. 1: the mask names another number of
  // places, or one beyond the end; nothing was written. 2: the mask changed while it was read (it may lie in shared
  // memory), and held is of no use any more. Nothing outside of held is written, and nothing outside of mask and values
  // read, whatever they say.
  int (*decode[4])(void* held, std::size_t count, const std::uint8_t* mask, const std::uint8_t* values,
                   std::size_t given);
  // Writes the elements of held that the mask names to values. Returns what decode does.
  int (*gather[4])(const void* held, std::size_t count, const std::uint8_t* mask, std::uint8_t* values,
                   std::size_t given);
  // Writes the nested form of a mask to out, of nested_bytes((bytes + 7) / 8) + kNestSlack bytes, and returns its
  // length.
  std::size_t (*nest)(const std::uint8_t* mask, std::size_t bytes, std::uint8_t* out);
  // The mask again. False, and a mask of no use, for anything that `nest` doesn't write. Reads each byte once.
  bool (*unnest)(const std::uint8_t* nested, std::size_t length, std::uint8_t* mask, std::size_t bytes);
};

}  // namespace cutset
