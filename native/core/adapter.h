// Low-rank additions to the products of a decoder (LoRA, Hu et al. 2021, arXiv:2106.09685), chosen by sequence.
#pragma once

#include <cstddef>
#include <vector>

#include "core/memory.h"
#include "core/pool.h"
#include "core/spec.h"

namespace cutset {

// A matrix with few rows or few columns, in panels of 16 outputs that are padded with zeros. Where all of its numbers
// are bfloat16's, that is how they are kept: a batch reads the matrices of every adapter in it beside the weights.
class ThinMatrix {
 public:
  // weight: (outputs, depth). std::invalid_argument for an empty one, std::bad_alloc.
  ThinMatrix(const float* weight, std::size_t outputs, std::size_t depth);

  std::size_t outputs() const { return outputs_; }
  std::size_t depth() const { return depth_; }
  std::size_t padded() const;

  // x (rows, depth), rows `stride` floats apart, to y (rows, padded()). A row of y depends on that row of x alone.
  void forward(const float* x, std::size_t stride, std::size_t rows, float* y) const;

 private:
  std::size_t outputs_, depth_;
  bool half_;
  Buffer panels_;  // [panel][depth][16]
};

// y[first ..] += scale * up . (down . x)
struct LowRank {
  ThinMatrix down;    // (rank, inputs of the site)
  ThinMatrix up;      // (some outputs of the site, rank)
  std::size_t first;  // of these outputs
  float scale;
};

// The additions of one adapter. Filled once, then read by any number of steps.
class Adapter {
 public:
  explicit Adapter(DecoderSpec spec) : spec_(static_cast<DecoderSpec&&>(spec)), parts_(spec_.site_count()) {}

  Adapter(const Adapter&) = delete;
  Adapter& operator=(const Adapter&) = delete;

  // down: (rank, inputs), up: (outputs, rank). std::invalid_argument where the decoder has no such site or outputs.
  void put(Site site, int layer, int expert, const float* down, const float* up, std::size_t rank, std::size_t inputs,
           std::size_t first, std::size_t outputs, float scale);

  // `index` as DecoderSpec::index gives it.
  const std::vector<LowRank>& parts(std::size_t index) const { return parts_[index]; }
  bool fits(const DecoderSpec& spec) const { return parts_.size() == spec.site_count(); }

 private:
  DecoderSpec spec_;
  std::vector<std::vector<LowRank>> parts_;
};

// The rows of a product that one adapter adds to, in ascending order.
struct AdaptedRows {
  const Adapter* adapter;
  std::vector<std::size_t> rows;
};

// By the adapter of each row, nullptr where there is none.
std::vector<AdaptedRows> adapted_rows(const std::vector<const Adapter*>& adapters);

// Adds to the product y (rows, outputs) of x (rows, inputs) at a site. What a row gets depends on it and its adapter
// alone.
void add_low_rank(ThreadPool& pool, const std::vector<AdaptedRows>& groups, std::size_t index, const float* x,
                  std::size_t inputs, float* y, std::size_t outputs);

}  // namespace cutset
