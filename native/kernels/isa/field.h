// The field's kernels of this instruction set; documented in kernels/field.h.
//
// How products with residues are summed: a residue is centred and cut into three signed limbs of 11 bits; the other
// factor into signed halves of 16 bits. The instructions that multiply 16-bit numbers then give sums in 32 bits that
// may grow for some steps. Where the other factor z has 32 bits, z = low + 2^16 high, the two halves of a lane meet the
// limbs of s and of 2^16 s mod P, so that both products have the same weight.
#pragma once

#include "kernels/field.h"
#include "kernels/isa/ints.h"

namespace cutset::CUTSET_ISA {

void mask(const std::int16_t* q, const std::uint32_t* r, std::size_t n, std::uint32_t* out);
void dots_i16(const std::int16_t* x, std::size_t rows, std::size_t depth, const std::uint32_t* v, std::size_t vectors,
              std::uint32_t* out, std::size_t stride);
void dots_i32(const std::int32_t* x, std::size_t rows, std::size_t depth, const std::uint32_t* v, std::size_t vectors,
              std::uint32_t* out, std::size_t stride);
void dots_u32(const std::uint32_t* x, std::size_t rows, std::size_t depth, const std::uint32_t* v, std::size_t vectors,
              std::uint32_t* out, std::size_t stride);
void project(const std::int8_t* weight, std::size_t outputs, std::size_t depth, std::size_t first, std::size_t end,
             const std::uint32_t* s, std::size_t vectors, std::uint32_t* out);
Verdict settle(const SettleJob& job);

constexpr FieldKernels kField = {mask, dots_i16, dots_i32, dots_u32, project, settle};

constexpr std::size_t kLimbs = 3;      // of a residue
constexpr std::size_t kColumns = 512;  // whose limbs are prepared at a time: they stay in the first cache
constexpr std::size_t kSteps = kColumns / kLanes;

// In each step a lane gets at most 2^15 * 2^10 twice, for halves of int16, or once and half of it, for those of a
// centred integer: 31 and 42 steps would just fit.
constexpr std::size_t kRunOfShorts = 16, kRunOfIntegers = 32;

// The integers in [-kHalfPrime, kHalfPrime] of residues.
inline Ints centred(Ints residues) {
  return sub_where_greater(residues, splat_int(kHalfPrime), splat_int(static_cast<std::int32_t>(kPrime)));
}

// limbs[0] + 2^11 limbs[1] + 2^22 limbs[2] = v for centred integers; each in [-1024, 1023].
inline void cut(Ints v, Ints limbs[kLimbs]) {
  limbs[0] = right_signed<21>(left<21>(v));
  v = right_signed<11>(sub(v, limbs[0]));
  limbs[1] = right_signed<21>(left<21>(v));
  limbs[2] = right_signed<11>(sub(v, limbs[1]));
}

// Residues at + 0 .. kLanes - 1, zeros from n on.
inline Ints padded(const std::uint32_t* residues, std::size_t at, std::size_t n) {
  if (at + kLanes <= n) return load_ints(residues + at);
  std::uint32_t room[kLanes] = {};
  for (std::size_t i = 0; at + i < n; ++i) room[i] = residues[at + i];
  return load_ints(room);
}

// The limbs that a step is multiplied with.
template <std::size_t kVectors>
struct Words {
  std::int16_t limb[kVectors][kLimbs][2 * kLanes];
};

// Limbs of s and of 2^16 s for kLanes columns a step.
template <std::size_t kVectors>
struct PairTable {
  alignas(64) Words<kVectors> steps[kSteps];

  // n columns of residues (kVectors, stride).
  void fill(const std::uint32_t* residues, std::size_t stride, std::size_t n) {
    const Ints prime = splat_int(static_cast<std::int32_t>(kPrime));
    for (std::size_t c = 0; c < n; c += kLanes) {
      for (std::size_t v = 0; v < kVectors; ++v) {
        const Ints s = padded(residues + v * stride, c, n);
        const Ints turned = both(either(left<16>(s), right<15>(s)), prime);  // 2^31 = 1, so shifts are rotations
        Ints low[kLimbs], high[kLimbs];
        cut(centred(s), low);
        cut(centred(turned), high);
        for (std::size_t i = 0; i < kLimbs; ++i) {
          store_ints(steps[c / kLanes].limb[v][i], halves(low[i], left<16>(high[i])));
        }
      }
    }
  }
};

// Sums of products, by vector and limb.
template <std::size_t kVectors>
struct Sums {
  Ints sum[kVectors][kLimbs];

  inline void clear() {
#pragma GCC unroll 2
    for (std::size_t v = 0; v < kVectors; ++v) {
#pragma GCC unroll 3
      for (std::size_t i = 0; i < kLimbs; ++i) sum[v][i] = splat_int(0);
    }
  }
  inline void add_words(Ints x, const Words<kVectors>& words) {
#pragma GCC unroll 2
    for (std::size_t v = 0; v < kVectors; ++v) {
#pragma GCC unroll 3
      for (std::size_t i = 0; i < kLimbs; ++i) sum[v][i] = dot_halves(sum[v][i], x, load_ints(words.limb[v][i]));
    }
  }
  // Centred integers, with a PairTable.
  inline void add_integers(Ints z, const Words<kVectors>& words) {
    add_words(halves(z, add(z, splat_int(0x8000))), words);
  }
  // Adds the sums to `totals`, mod P, and starts again.
  inline void move_to(std::uint64_t* totals) {
#pragma GCC unroll 2
    for (std::size_t v = 0; v < kVectors; ++v) {
      const std::int64_t high = sum_signed(sum[v][2]) * 2048 + sum_signed(sum[v][1]);
      totals[v] += residue_of(high * 2048 + sum_signed(sum[v][0]));
    }
    clear();
  }
};

}  // namespace cutset::CUTSET_ISA
