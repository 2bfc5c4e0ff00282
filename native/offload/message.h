// The two frames of a product, as docs/protocol.md specifies them: `multiply` with its rows, and `product`.
//
// Written exactly as the Python side writes them, byte for byte. Read only where they are just that: everything else,
// right or wrong, is left to the one parser for all frames, cutset.link.frames.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cutset::offload {

constexpr std::size_t kMostFront = 128;                       // bytes of a frame before its array, at most
constexpr std::uint64_t kMostCount = std::uint64_t{1} << 62;  // of the protocol

// A client asks for the product of rows with a matrix. The array: uint32 residues if masked, or else int16.
struct Multiply {
  std::uint64_t call = 0, matrix = 0;
  bool masked = false;
  std::uint64_t rows = 0, depth = 0;

  std::uint64_t bytes() const { return rows * depth * (masked ? 4 : 2); }
};

// Who shares a product, as far as that is anybody else's business.
enum Company : std::uint64_t {
  kAlone = 0,
  kSome = 1,   // others do, and there are cores for all to stay awake on
  kCrowd = 2,  // others do, and there aren't
};

// The answer. The array: uint32 residues if masked, or else int32. `seconds`, of these rows, and `shared`, a Company,
// are the accelerator's word.
struct Answer {
  std::uint64_t call = 0;
  double seconds = 0;
  std::uint64_t shared = 0;
  bool masked = false;
  std::uint64_t rows = 0, outputs = 0;

  std::uint64_t bytes() const { return rows * outputs * 4; }
};

// What comes before the array: how many bytes, a multiple of 64. `out` has room for kMostFront.
std::size_t write_front(const Multiply& message, char* out);
std::size_t write_front(const Answer& message, char* out);

// Where the array begins in a frame of `length` bytes that is exactly such a message; 0 if it isn't. The frame is
// aligned to 64 bytes and may lie in memory that someone else writes to: what is read is copied first.
std::size_t read_front(const char* frame, std::uint64_t length, Multiply& found);
std::size_t read_front(const char* frame, std::uint64_t length, Answer& found);

}  // namespace cutset::offload
