// Who computes the products of a decoder.
#pragma once

#include <cstddef>
#include <variant>
#include <vector>

#include "core/addition.h"
#include "core/grouped.h"
#include "core/linear.h"
#include "core/pool.h"
#include "core/spec.h"

namespace cutset {

class Linears {
 public:
  virtual ~Linears() = default;

  // x (rows, inputs) to y (rows, outputs), without bias and with what is added to this product, or nullptr. Layer and
  // expert are -1 where there is none.
  virtual void forward(Site site, int layer, int expert, const float* x, std::size_t rows, float* y,
                       const Addition* addition) = 0;
};

// The products computed here, from packed weights that outlive it. Several threads may call it at once.
class LocalLinears : public Linears {
 public:
  using Part = std::variant<const PackedGrouped*, const PackedF32*>;

  LocalLinears(DecoderSpec spec, ThreadPool& pool) : spec_(static_cast<DecoderSpec&&>(spec)), pool_(pool) {
    packed_.resize(spec_.site_count());
  }

  // std::invalid_argument if the decoder has no such site or it has another shape. `bits`: of the activations.
  void put(Site site, int layer, int expert, const PackedF32& linear);
  void put(Site site, int layer, int expert, const PackedI8& linear, int bits);
  // A site's matrix in parts, each of which gives the outputs after those of the part before.
  void put(Site site, int layer, int expert, const std::vector<Part>& parts, int bits);

  void forward(Site site, int layer, int expert, const float* x, std::size_t rows, float* y,
               const Addition* addition) override;

  // Of all packed weights.
  std::size_t bytes() const;

 private:
  struct Integers {
    const PackedI8* linear;
    int bits;
  };

  struct Parts {
    std::vector<Part> parts;
    int bits;
  };

  void forward(const Parts& parts, const float* x, std::size_t rows, float* y, std::size_t outputs, Added added);

  DecoderSpec spec_;
  ThreadPool& pool_;
  std::vector<std::variant<std::monostate, const PackedF32*, Integers, Parts>> packed_;
};

}  // namespace cutset
