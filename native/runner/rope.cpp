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

// Of sequences of that many tokens.
std::vector<float> frequencies_of(const RopeSpec& rope, std::size_t tokens) {
  if (rope.dynamic && tokens > rope.dynamic->original_positions) {
    return stretched(*rope.dynamic, rope.frequencies.size(), tokens);
  }
  return rope.other && tokens > rope.other->original_positions ? rope.other->frequencies : rope.frequencies;
}

void add_table(const RopeSpec& rope, std::size_t tokens, RopeTables& tables) {
  const std::vector<float> frequencies = frequencies_of(rope, tokens);
  const auto most = static_cast<float>(tokens);
  const auto infinite = [most](float f) { return !std::isfinite(f * most); };
  if (std::any_of(frequencies.begin(), frequencies.end(), infinite)) {
    fail("the specification's dynamic rotary embedding gives angles that aren't finite");
  }
  for (std::size_t position = 0; position < tokens; ++position) {
    for (const float frequency : frequencies) {
      const float angle = static_cast<float>(position) * frequency;
      tables.cos.push_back(std::cos(angle) * rope.scale);
      tables.sin.push_back(std::sin(angle) * rope.scale);
    }
  }
}

// Adds the last `once` values again until they are there `times` times.
void repeat(std::vector<float>& values, std::size_t once, std::size_t times) {
  for (std::size_t i = 1; i < times; ++i) {
    const std::size_t last = values.size() - once;
    for (std::size_t j = 0; j < once; ++j) values.push_back(values[last + j]);
  }
}

}  // namespace

std::vector<float> query_scales(float growth, std::size_t positions, std::size_t batch, std::size_t tokens) {
  std::vector<float> scales;
  if (growth == 0) return scales;
  scales.reserve(checked_product(batch, tokens));
  for (std::size_t position = 0; position < tokens; ++position) {
    scales.push_back(1 + growth * std::log(1 + static_cast<float>(position / positions)));
  }
  repeat(scales, tokens, batch);
  return scales;
}

RopeTables rope_tables(const std::vector<RopeSpec>& ropes, std::size_t batch, std::size_t tokens) {
  const std::size_t once = checked_product(tokens, ropes.front().frequencies.size());
  RopeTables tables;
  tables.cos.reserve(checked_product(checked_product(once, batch), ropes.size()));
  tables.sin.reserve(tables.cos.capacity());
  for (const RopeSpec& rope : ropes) {
    add_table(rope, tokens, tables);
    repeat(tables.cos, once, batch);
    repeat(tables.sin, once, batch);
  }
  return tables;
}

}  // namespace cutset::runner
