// The kernels of linear layers whose weights have few bits and a scale for each group of columns.
//
// A weight is (code - zero) * scale + minimum. With activations as integers q and one scale a row, an output is
//   row's scale * sum over groups, in order, of sum(q * (code - zero)) * scale + sum(q) * minimum
// where the inner sums are exact integers and each product with a factor is added by one fused multiply-add in float32.
// So it is the same on every instruction set, for every number of rows.
//
// A panel has 32 outputs: codes by slabs of 16 columns, then the groups' factors as a PanelForm says. In a slab come
// four steps of four columns, whose bytes (or nibbles) are the columns 0, 2, 1, 3: masks then leave pairs of neighbours
// in a 32-bit word, as the rows' integers lie.
//   4 bits  [step][16][4]: output c in the low nibbles, output c + 16 in the high ones
//   5 bits  the low four bits so, then [16] words of fifth bits: bit 16 k + 4 step + 2 t + h is that of column 2 t + k
//   of
//           output c + 16 h
//   6 bits  the low four bits so, then [h][16] words: bits 16 k + 4 step + 2 t and the next, the same way
//   8 bits  [step][32][4]
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/linear.h"

namespace cutset {

constexpr std::size_t kSlab = 16;       // columns
constexpr std::size_t kMostSpan = 256;  // columns of a group; longer ones are cut to spans that share their factors

constexpr std::size_t kLimbRowsMore = 15;

constexpr std::size_t slab_bytes(int bits) { return kSlab * kPanel * static_cast<std::size_t>(bits) / 8; }

enum class FactorKind { kNone, kHalf, kBfloat, kFloat };
enum class StepKind { kNone, kSigned, kUnsigned };

constexpr std::size_t factor_bytes(FactorKind kind) {
  return kind == FactorKind::kNone ? 0 : kind == FactorKind::kFloat ? 4 : 2;
}

// Factors of a panel's groups: values [block][32], each for `each` groups, times steps [group][32] where there are
// such.
struct PanelFactors {
  FactorKind kind;
  std::size_t each;
  StepKind steps;
  std::size_t values_at, steps_at;  // bytes from the panel's begin
};

struct PanelForm {
  int bits;           // of a code: 4, 5, 6 or 8
  std::size_t depth;  // columns, padded to whole slabs
  std::size_t span;   // columns of a group, a multiple of kSlab; the last may be shorter
  std::size_t groups;
  PanelFactors scales, minima;  // minima.kind may be kNone
  bool zeros;                   // there are bytes [group][32] at zeros_at; else `zero` is that of all groups
  std::size_t zeros_at;
  std::int32_t zero;  // added to the zeros where there are such
  bool levels;        // codes are numbers of levels, 4 bits alone
  std::uint8_t level[16];
  std::size_t bytes;  // of a panel, whole cache lines
};

// Rows as `encode` writes them.
struct GroupedRows {
  const std::int16_t* q;      // (rows, depth) with zeros as padding
  const std::int32_t* sums;   // (rows, groups) of each group's q
  const float* scales;        // (rows,)
  const std::uint8_t* limbs;  // the same integers in two bytes, for products of bytes; or nullptr
};

struct GroupedJob {
  const PanelForm* form;
  GroupedRows rows;
  std::size_t count;           // of rows
  const std::uint8_t* panels;  // [panel] of form->bytes
  std::size_t outputs;
  float* y;            // (rows, outputs)
  std::size_t stride;  // elements between rows of y
};

struct GroupedKernels {
  // Bytes of limbs that each row takes; 0: none are wanted. Room for kLimbRowsMore rows must follow the last.
  std::size_t (*limb_bytes)(const PanelForm& form);
  // x (rows, depth) to rows of `form`; bits 8 to 12 as LinearKernels::quantize has them. order: column k of the codes
  // is multiplied with column order[k] of x, `room` (depth,) is used then; or nullptr.
  void (*encode)(const PanelForm& form, const float* x, std::size_t rows, std::size_t depth, int bits,
                 const std::int32_t* order, float* room, std::int16_t* q, std::int32_t* sums, float* scales,
                 std::uint8_t* limbs);
  void (*multiply)(const GroupedJob& job);
};

}  // namespace cutset
