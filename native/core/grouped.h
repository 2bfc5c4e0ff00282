// Linear layers whose weights have few bits and a scale for each group of columns; see kernels/grouped.h for what is
// computed. Shapes as in core/linear.h. A row of y depends on that row of x alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/addition.h"
#include "core/memory.h"
#include "core/pool.h"
#include "kernels/grouped.h"

namespace cutset {

// Factors as files have them: (outputs, blocks) of floats, each for as many groups, times (outputs, groups) of steps.
// Floats whose values all are bfloat16 or float16 take no more memory than those.
struct GivenFactors {
  FactorKind kind = FactorKind::kNone;
  const void* values = nullptr;  // 2 bytes each, or 4 for kFloat
  std::size_t blocks = 0;
  StepKind step_kind = StepKind::kNone;
  const std::uint8_t* steps = nullptr;
};

// Some outputs of a matrix: weight = (code - zero) * scale + minimum.
struct GroupedPart {
  const std::uint8_t* codes;  // (outputs, depth), below 2^bits
  std::size_t outputs;
  GivenFactors scales, minima;
  const std::uint8_t* zeros;  // (outputs, groups), or nullptr
};

struct GroupedShape {
  int bits;
  std::size_t depth;
  std::size_t span;           // columns of a group: a multiple of 16 up to 256; the last may be shorter
  int zero;                   // of all groups, 0 where parts have zeros
  const std::int8_t* levels;  // (16,) that codes of 4 bits stand for, or nullptr
  const std::int32_t* order;  // (depth,) which of x's columns those of the codes multiply, or nullptr
};

class PackedGrouped {
 public:
  // The rows of several matrices, stacked, which have the same kinds of factors and as many blocks.
  // std::invalid_argument for what isn't so, for codes and an order out of range, for factors that aren't finite.
  PackedGrouped(const GroupedShape& shape, const std::vector<GroupedPart>& parts, ThreadPool& pool);

  std::size_t outputs() const { return outputs_; }
  std::size_t depth() const { return depth_; }
  std::size_t bytes() const { return panels_.bytes() + order_.size() * sizeof(std::int32_t); }
  int bits() const { return form_.bits; }

  // y (rows, outputs), `stride` elements between its rows. std::invalid_argument unless 8 <= bits <= 12, which are
  // those of the activations.
  void forward(ThreadPool& pool, const float* x, std::size_t rows, int bits, float* y, std::size_t stride,
               Workspace& workspace, const Added& added = {}) const;

  // The weights of one output, (depth): each step rounded to float32.
  void weights(std::size_t output, float* row) const;

 private:
  void set_form(const GroupedShape& shape, const std::vector<GroupedPart>& parts);
  // kFloat as kBfloat or kHalf, where all values of the parts are the same in that.
  static FactorKind narrowed(const std::vector<GroupedPart>& parts, GivenFactors GroupedPart::* factors);
  // False for a code or a factor that can't be.
  bool pack(const std::vector<GroupedPart>& parts, std::size_t panel);

  std::size_t outputs_ = 0, depth_;
  PanelForm form_{};
  std::vector<std::int32_t> order_;  // empty: x's own
  Buffer panels_;
};

// weight (outputs, depth) rounded to the nearest, ties to even: codes (outputs, depth), scales (outputs, groups). With
// minima (outputs, groups) a group's codes are (w - least) / scale from 0 on; without (nullptr) they lie around
// 2^(bits - 1) and scale = max|w| / (2^(bits - 1) - 1). Factors are what float16 has where it is precise enough.
// std::invalid_argument if a weight isn't a finite number, or for groups that don't divide the columns.
void quantize_groups(ThreadPool& pool, const float* weight, std::size_t outputs, std::size_t depth, int bits,
                     std::size_t group, std::uint8_t* codes, float* scales, float* minima);

}  // namespace cutset
