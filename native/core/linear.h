// Linear layers, y = x . W^T, with weights packed once for every number of rows.
//
// Shapes: x (rows, depth), W (outputs, depth), y (rows, outputs), all row-major and contiguous. A row of y depends on
// that row of x alone: not on the other rows, the threads, or how the work is cut into tasks. The weights given to a
// constructor may go afterwards.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/addition.h"
#include "core/floats.h"
#include "core/memory.h"
#include "core/pool.h"
#include "kernels/linear.h"

namespace cutset {

// Rows of a weight matrix (outputs, depth).
struct RowsF32 {
  FloatView weight;
  std::size_t outputs;
};

// Products in float32 with weights in float32, or in the 16 bits in which they came. The results are the same, but with
// bfloat16 where there are tiles for it, which sum up in another order (BFloat16Job).
class PackedF32 {
 public:
  // std::invalid_argument for an empty or absurd shape, std::bad_alloc. Or the rows of several matrices, stacked, all
  // floats of one type.
  PackedF32(const FloatView& weight, std::size_t outputs, std::size_t depth, ThreadPool& pool);
  PackedF32(const std::vector<RowsF32>& parts, std::size_t depth, ThreadPool& pool);

  std::size_t outputs() const { return outputs_; }
  std::size_t depth() const { return depth_; }
  FloatType type() const { return type_; }
  std::size_t bytes() const { return panels_.bytes(); }

  void forward(ThreadPool& pool, const float* x, std::size_t rows, float* y, Workspace& workspace,
               const Added& added = {}) const;

 private:
  void forward_tiles(ThreadPool& pool, const float* x, std::size_t rows, float* y, Workspace& workspace,
                     const Added& added) const;
  // Of the depth that a panel holds, and how many bytes that are.
  std::size_t padded() const { return type_ == FloatType::kBFloat16 ? round_up(depth_, kHalfStep) : depth_; }
  std::size_t panel_bytes() const { return kPanel * float_bytes(type_) * padded(); }

  std::size_t outputs_ = 0, depth_;
  FloatType type_;
  Buffer panels_;  // see kernels/linear.h
};

// Rows of a weight matrix, as they lie in a file: 8-bit weights (outputs, depth) with one scale for each output.
struct RowsI8 {
  const std::int8_t* weight;
  const float* scales;
  std::size_t outputs;
};

// The same packed: [panel][depth / 4][32][4], see kernels/linear.h, at any address.
struct PanelsI8 {
  const std::int8_t* panels;
  const float* scales;
  std::size_t outputs, depth;
};

// 8-bit weights with one scale for each output; activations are quantised by rows, see LinearKernels::quantize.
class PackedI8 {
 public:
  static constexpr int kLeastBits = 8, kMostBits = 12;
  static constexpr std::size_t kMostResidueDepth = INT32_MAX / (255 * 127);

  // weight: -127 to 127, std::invalid_argument for -128. scales: (outputs,). Or the rows of several matrices, stacked.
  PackedI8(const std::int8_t* weight, const float* scales, std::size_t outputs, std::size_t depth, ThreadPool& pool);
  PackedI8(const std::vector<RowsI8>& parts, std::size_t depth, ThreadPool& pool);
  // Weights that are packed already and stay where they are, in a mapped file for instance; they must outlive this.
  PackedI8(const PanelsI8& panels, ThreadPool& pool);

  std::size_t outputs() const { return outputs_; }
  std::size_t depth() const { return depth_; }
  std::size_t bytes() const;

  // Copies weights that lie elsewhere to memory of its own, on huge pages, which is faster to run through than a mapped
  // file: how many bytes, 0 if there is nothing to do. Products may run meanwhile, another move_in may not.
  std::size_t move_in(ThreadPool& pool);

  // Reads weights into the cache: `bytes` of them from `offset` on, which are cut to whole lines and to what there is.
  // Gives where it ended. Whoever knows what will be multiplied next fills a wait with it.
  std::size_t warm(std::size_t offset, std::size_t bytes) const;

  // The most bits of activations (8 to 12) whose sums are sure to lie between -(2^30 - 1) and 2^30 - 1 with these
  // weights, so that they are the same in int32 and in the field of kernels/field.h; 0 if none are.
  int most_bits() const;

  // std::invalid_argument unless 8 <= bits <= most_bits().
  void forward(ThreadPool& pool, const float* x, std::size_t rows, int bits, float* y, Workspace& workspace,
               const Added& added = {}) const;

  // The sums themselves: z (rows, outputs) = q . W^T for |q| < 2^(bits-1), which is checked (std::invalid_argument).
  void integers(ThreadPool& pool, const std::int16_t* q, std::size_t rows, int bits, std::int32_t* z,
                Workspace& workspace) const;

  // z (rows, outputs) = x . W^T mod P for residues x (rows, depth). std::invalid_argument for an x that isn't below P,
  // and for more columns than kMostResidueDepth.
  void residues(ThreadPool& pool, const std::uint32_t* x, std::size_t rows, std::uint32_t* z,
                Workspace& workspace) const;

 private:
  // Room for sums and scales; those of outputs that don't exist are zero.
  void prepare();
  // most_sum_ and sums_, from facts(first output, sums) of each panel.
  template <class Facts>
  void survey(ThreadPool& pool, const Facts& facts);
  void check(int bits) const;
  // Sets what the rows and this matrix give; `job` has the rows' codes, `stride` bytes each, bits, and one output.
  void multiply(ThreadPool& pool, const I8Job& job, std::size_t stride, const Added& added = {}) const;

  std::size_t outputs_, depth_;
  std::atomic<const std::int8_t*> panels_{nullptr};  // [panel][depth / 4][32][4]
  Buffer own_;                                       // where they lie, unless elsewhere
  Buffer sums_;                                      // int32, sum of each output's weights
  Buffer scales_;                                    // float, zero for outputs that don't exist
  std::int64_t most_sum_ = 0;                        // the largest sum of an output's |weights|
};

// Rows of floats as integers of `bits` bits; see LinearKernels::quantize. q (rows, depth), scales (rows,).
void quantize_rows(ThreadPool& pool, const float* x, std::size_t rows, std::size_t depth, int bits, std::int16_t* q,
                   float* scales);

// Weights as 8-bit integers, by the same rule. std::invalid_argument if one is not a finite number.
void quantize_weight(ThreadPool& pool, const float* weight, std::size_t outputs, std::size_t depth, std::int8_t* q,
                     float* scales);

// Seconds for reading `bytes` of memory once, with the widest loads that the machine has.
double read_seconds(ThreadPool& pool, const void* data, std::size_t bytes);

}  // namespace cutset
