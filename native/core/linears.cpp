#include "core/linears.h"

#include <cstring>
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

void LocalLinears::put(Site site, int layer, int expert, const std::vector<Part>& parts, int bits) {
  const std::size_t index = spec_.index(site, layer, expert);
  std::size_t outputs = 0;
  for (const Part& part : parts) {
    std::visit(
        [&](const auto* linear) {
          outputs += linear->outputs();
          if (linear->depth() != spec_.inputs(site, layer, expert)) outputs = 0;
        },
        part);
    if (outputs == 0) break;
  }
  if (outputs != spec_.outputs(site, layer, expert)) {
    throw std::invalid_argument("a weight has another shape than its site");
  }
  if (bits < PackedI8::kLeastBits || bits > PackedI8::kMostBits) {
    throw std::invalid_argument("activations have 8 to 12 bits");
  }
  packed_[index] = Parts{parts, bits};
}

void LocalLinears::forward(const Parts& parts, const float* x, std::size_t rows, float* y, std::size_t outputs,
                           Added added) {
  static thread_local Workspace workspace, room;
  for (const Part& part : parts.parts) {
    if (const auto* grouped = std::get_if<const PackedGrouped*>(&part)) {
      (*grouped)->forward(pool_, x, rows, parts.bits, y + added.output, outputs, workspace, added);
      added.output += (*grouped)->outputs();
    } else {
      const PackedF32& floats = *std::get<const PackedF32*>(part);
      const std::size_t columns = floats.outputs();
      if (columns == outputs) {
        floats.forward(pool_, x, rows, y, workspace, added);
        return;
      }
      float* made = static_cast<float*>(room.take(rows * columns * sizeof(float)));
      floats.forward(pool_, x, rows, made, workspace);
      for (std::size_t r = 0; r < rows; ++r) {
        std::memcpy(y + r * outputs + added.output, made + r * columns, columns * sizeof(float));
      }
      run_beside(pool_, added, 0, [](std::size_t) {});
      if (added.addition) added.addition->add_all(pool_, added.output, columns);
      added.output += columns;
    }
    added.prepared = true;
  }
}

void LocalLinears::forward(Site site, int layer, int expert, const float* x, std::size_t rows, float* y,
                           const Addition* addition) {
  static thread_local Workspace workspace;
  const auto& packed = packed_[spec_.index(site, layer, expert)];
  const Added added{addition, 0, false};
  if (const auto* floats = std::get_if<const PackedF32*>(&packed)) {
    (*floats)->forward(pool_, x, rows, y, workspace, added);
  } else if (const auto* integers = std::get_if<Integers>(&packed)) {
    integers->linear->forward(pool_, x, rows, integers->bits, y, workspace, added);
  } else if (const auto* parts = std::get_if<Parts>(&packed)) {
    forward(*parts, x, rows, y, spec_.outputs(site, layer, expert), added);
  } else {
    throw std::invalid_argument("a site has no weights");
  }
}

std::size_t LocalLinears::bytes() const {
  std::size_t sum = 0;
  for (const auto& packed : packed_) {
    if (const auto* floats = std::get_if<const PackedF32*>(&packed)) {
      sum += (*floats)->bytes();
    } else if (const auto* integers = std::get_if<Integers>(&packed)) {
      sum += integers->linear->bytes();
    } else if (const auto* parts = std::get_if<Parts>(&packed)) {
      for (const Part& part : parts->parts) {
        sum += std::visit([](const auto* linear) { return linear->bytes(); }, part);
      }
    }
  }
  return sum;
}

}  // namespace cutset
