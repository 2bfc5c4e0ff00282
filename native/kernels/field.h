// The prime field of P = 2^31 - 1 elements: masks, and the checks of products. A residue is a uint32 in [0, P); all
// results are canonical. Everything is exact.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cutset {

constexpr std::uint32_t kPrime = 0x7FFFFFFFu;
constexpr std::int32_t kHalfPrime = 0x3FFFFFFF;  // (P - 1) / 2: integers are lifted to [-kHalfPrime, kHalfPrime]
constexpr std::size_t kMostChecks = 2;           // repetitions that one pass of settle can make
constexpr std::size_t kSettleRows = 64;          // rows that one call of settle takes

// x mod P for |x| < 2^57. (Static: each instruction set has its own.)
static constexpr std::uint32_t residue_of(std::int64_t x) {
  std::uint64_t u = static_cast<std::uint64_t>(x + (std::int64_t{kPrime} << 26));
  u = (u & kPrime) + (u >> 31);
  u = (u & kPrime) + (u >> 31);
  return static_cast<std::uint32_t>(u == kPrime ? 0 : u);
}

// What settle found: the first row in which something is wrong, and there the first element of code 1 or 2, or else
// code 3.
struct Verdict {
  enum Code : int { kGood = 0, kNotCanonical = 1, kOutOfBounds = 2, kCheckFailed = 3 };
  int code;
  std::size_t row, column;
};

// Some rows of a reply on their way to a site's output. Each element of `reply` is read once: it may lie in memory that
// someone still writes to.
struct SettleJob {
  const std::uint32_t* reply;  // (rows, outputs) residues if there is a pad, or else int32
  const std::uint32_t* pad;    // (rows, outputs) residues to take away, or null
  const float* row_scales;     // (rows,)
  const float* output_scales;  // (outputs,)
  const std::int32_t* bounds;  // (outputs,) |z| must be at most top * bounds, or null; always at most kHalfPrime
  int top;
  const std::uint32_t* secrets;   // (checks, outputs) residues
  const std::uint32_t* expected;  // (rows, checks) what z . secrets must be mod P
  std::size_t checks;             // at most kMostChecks
  std::size_t rows, outputs;      // at most kSettleRows rows
  float* out;                     // (rows, outputs) float(z) * (row_scale * output_scale)
};

struct FieldKernels {
  // out = (q + r) mod P.
  void (*mask)(const std::int16_t* q, const std::uint32_t* r, std::size_t n, std::uint32_t* out);
  // out (rows, stride) of which `vectors` (1 or 2) are written: each row of x with each row of v (vectors, depth), mod
  // P. x of the names' types, of any value.
  void (*dots_i16)(const std::int16_t* x, std::size_t rows, std::size_t depth, const std::uint32_t* v,
                   std::size_t vectors, std::uint32_t* out, std::size_t stride);
  void (*dots_i32)(const std::int32_t* x, std::size_t rows, std::size_t depth, const std::uint32_t* v,
                   std::size_t vectors, std::uint32_t* out, std::size_t stride);
  void (*dots_u32)(const std::uint32_t* x, std::size_t rows, std::size_t depth, const std::uint32_t* v,
                   std::size_t vectors, std::uint32_t* out, std::size_t stride);
  // Columns first .. end of out (vectors, depth) = s (vectors, outputs) . weight (outputs, depth) mod P; 1 or 2
  // vectors.
  void (*project)(const std::int8_t* weight, std::size_t outputs, std::size_t depth, std::size_t first, std::size_t end,
                  const std::uint32_t* s, std::size_t vectors, std::uint32_t* out);
  Verdict (*settle)(const SettleJob& job);
};

}  // namespace cutset
