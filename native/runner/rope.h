// Rotary embedding: how a configuration stretches it, and cosines and sines of positions.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "runner/fields.h"

namespace cutset::runner {

// The C++ side of cutset.models.spec.RopeSpec, which documents the fields.
struct RopeSpec {
  double theta = 10000.0;
  std::string kind = "default";
  double factor = 1.0;
  std::size_t original_positions = 0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  bool truncate = true;
  bool half_ramp = false;
  double attention_factor = 1.0;
};

// As cutset.models.spec.DecoderSpec.longest has it: the most tokens that a sequence can have.
std::size_t longest(const RopeSpec& rope, std::size_t max_positions);

// What rope_parameters, rope_scaling and rope_theta of a configuration say; `theta` where they say nothing.
RopeSpec read_rope(const Fields& config, double theta, std::size_t max_positions);

struct RopeTable {
  std::vector<float> cos, sin;  // (tokens, head_dim / 2)
};

// For the positions 0 .. tokens - 1 of sequences of that length. Computed in float32 in the order of
// cutset.models.run.rope, so that both round alike. Error for a configuration that gives no finite numbers.
RopeTable rope_table(const RopeSpec& rope, std::size_t head_dim, std::size_t tokens);

}  // namespace cutset::runner
