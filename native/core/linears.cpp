#include "core/linears.h"

#include <stdexcept>

namespace cutset {

namespace {

template <class Packed>
void check_shape(const DecoderSpec& spec, Site site, int layer, int expert, const Packed& linear) {
  if (linear.depth() != spec.inputs(site, layer, expert) || linear.outputs() != spec.outputs(site, layer, expert)) {
    throw std::invalid_argument("a weight has another shape than its site");
  }
}

}  // namespace

void LocalLinears::put(Site site, int layer, int expert, const PackedF32& linear) {
  const std::size_t index = spec_.index(site, layer, expert);
  check_shape(spec_, site, layer, expert, linear);
  packed_[index] = &linear;
}

void LocalLinears::put(Site site, int layer, int expert, const PackedI8& linear, int bits) {
  const std::size_t index = spec_.index(site, layer, expert);
  check_shape(spec_, site, layer, expert, linear);
  if (bits < PackedI8::kLeastBits || bits > linear.most_bits()) {
    throw std::invalid_argument("these weights can't be multiplied with activations of that many bits");
  }
  packed_[index] = Integers{&linear, bits};
}

void LocalLinears::forward(Site site, int layer, int expert, const float* x, std::size_t rows, float* y) {
  static thread_local Workspace workspace;
  const auto& packed = packed_[spec_.index(site, layer, expert)];
  if (const auto* floats = std::get_if<const PackedF32*>(&packed)) {
    (*floats)->forward(pool_, x, rows, y, workspace);
  } else if (const auto* integers = std::get_if<Integers>(&packed)) {
    integers->linear->forward(pool_, x, rows, integers->bits, y, workspace);
  } else {
    throw std::invalid_argument("a site has no weights");
  }
}

}  // namespace cutset
