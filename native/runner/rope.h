// Rotary embedding: cosines and sines of positions.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

namespace cutset::runner {

constexpr std::size_t kMostPositions = std::size_t{1} << 27;

// The C++ side of cutset.models.spec.RopeSpec, which documents the fields.
struct DynamicRope {
  double theta = 0;
  double factor = 1;
  std::size_t original_positions = 0;
};

struct LongRope {
  std::vector<float> frequencies;
  std::size_t original_positions = 0;
};

struct RopeSpec {
  std::vector<float> frequencies;  // radians per position of each pair, (rotary_dim / 2)
  float scale = 1;
  std::size_t reach = 0;
  std::optional<DynamicRope> dynamic;
  std::optional<LongRope> other;  // `long`
};

struct RopeTables {
  std::vector<float> cos, sin;  // (tables, batch, tokens, rotary_dim / 2)
};

// For the positions 0 .. tokens - 1 of `batch` sequences of that length. Error for a base that gives no finite numbers.
RopeTables rope_tables(const std::vector<RopeSpec>& ropes, std::size_t batch, std::size_t tokens);

// What q of each row is multiplied by, (batch, tokens): 1 + growth * log(1 + floor(position / positions)); none where
// that is 1 everywhere.
std::vector<float> query_scales(float growth, std::size_t positions, std::size_t batch, std::size_t tokens);

}  // namespace cutset::runner
