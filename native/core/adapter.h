// Low-rank additions to the products of a decoder (LoRA, Hu et al. 2021, arXiv:2106.09685), chosen by sequence.
#pragma once

#include <cstddef>
#include <vector>

#include "core/memory.h"
#include "core/spec.h"
#include "kernels/glue.h"

namespace cutset {

// A matrix with few rows or few columns, in panels of 16 outputs that are padded with zeros; see kernels/glue.h. It is
// kept in the smallest form that has all of its numbers: a batch reads the matrices of every adapter in it beside the
// weights.
class ThinMatrix {
 public:
  // weight: (outputs, depth). std::invalid_argument for an empty one, std::bad_alloc.
  ThinMatrix(const float* weight, std::size_t outputs, std::size_t depth);

  std::size_t outputs() const { return outputs_; }
  std::size_t depth() const { return depth_; }
  ThinKind kind() const { return kind_; }
  std::size_t panels() const;
  std::size_t padded() const;
  const void* panel(std::size_t number) const;

 private:
  std::size_t outputs_, depth_;
  ThinKind kind_;
  Buffer panels_;
};

// y[first ..] += scale * up . (down . x)
struct LowRank {
  ThinMatrix down;    // (rank, inputs of the site)
  ThinMatrix up;      // (some outputs of the site, rank)
  std::size_t first;  // of these outputs
  float scale;
  std::vector<float> scales;  // of each panel of `up`, instead of `scale`; or empty
};

// The additions of one adapter. Filled once, then read by any number of steps.
class Adapter {
 public:
  explicit Adapter(DecoderSpec spec) : spec_(static_cast<DecoderSpec&&>(spec)), parts_(spec_.product_count()) {}

  Adapter(const Adapter&) = delete;
  Adapter& operator=(const Adapter&) = delete;

  // down: (rank, inputs), up: (outputs, rank), scales: (outputs / 16, rounded up) factors beside `scale`.
  // std::invalid_argument where the decoder has no such site or outputs.
  void put(Site site, int layer, int expert, const float* down, const float* up, std::size_t rank, std::size_t inputs,
           std::size_t first, std::size_t outputs, float scale, const float* scales = nullptr);
  void put(ToldProduct product, int layer, const float* down, const float* up, std::size_t rank, std::size_t inputs,
           std::size_t first, std::size_t outputs, float scale, const float* scales = nullptr);

  // `index` as DecoderSpec::index gives it.
  const std::vector<LowRank>& parts(std::size_t index) const { return parts_[index]; }
  bool fits(const DecoderSpec& spec) const { return parts_.size() == spec.product_count(); }

 private:
  struct Shape {
    std::size_t inputs, outputs;
  };
  void put(std::size_t index, Shape product, LowRank part, const float* scales);

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

}  // namespace cutset
