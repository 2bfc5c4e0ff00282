#include "runner/rope.h"

#include <algorithm>
#include <cmath>

#include "core/memory.h"
#include "runner/error.h"

namespace cutset::runner {

namespace {

// NTK-aware, after bloc97 (2023). In float32 in the order of cutset.models.run.rope, so that both round alike.
std::vector<float> stretched(const DynamicRope& dynamic, std::size_t pairs, std::size_t tokens) {
  const double stretch =
      dynamic.factor * static_cast<double>(tokens) / static_cast<double>(dynamic.original_positions) -
      (dynamic.factor - 1);
  const auto dim = static_cast<double>(2 * pairs);
  const auto theta = static_cast<float>(dynamic.theta * std::pow(stretch, dim / (dim - 2)));
  std::vector<float> frequencies(pairs);
  for (std::size_t i = 0; i < pairs; ++i) {
    frequencies[i] = 1.0f / std::pow(theta, static_cast<float>(2 * i) / static_cast<float>(dim));
  }
  return frequencies;
}

}  // namespace

RopeTable rope_table(const RopeSpec& rope, std::size_t tokens) {
  const bool longer = rope.dynamic && tokens > rope.dynamic->original_positions;
  const std::vector<float> frequencies =
      longer ? stretched(*rope.dynamic, rope.frequencies.size(), tokens) : rope.frequencies;
  const auto most = static_cast<float>(tokens);
  const auto infinite = [most](float f) { return !std::isfinite(f * most); };
  if (std::any_of(frequencies.begin(), frequencies.end(), infinite)) {
    fail("the specification's dynamic rotary embedding gives angles that aren't finite");
  }
  RopeTable table;
  table.cos.reserve(checked_product(tokens, frequencies.size()));
  table.sin.reserve(table.cos.capacity());
  for (std::size_t position = 0; position < tokens; ++position) {
    for (const float frequency : frequencies) {
      const float angle = static_cast<float>(position) * frequency;
      table.cos.push_back(std::cos(angle) * rope.scale);
      table.sin.push_back(std::sin(angle) * rope.scale);
    }
  }
  return table;
}

}  // namespace cutset::runner
