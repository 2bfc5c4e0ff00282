// A decoder as its normalised specification describes it (docs/exchange-format.md): what the core must know, and where
// its parameters are stored. Nothing here knows a family.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/spec.h"
#include "runner/json.h"
#include "runner/rope.h"

namespace cutset::runner {

using Shape = std::vector<std::size_t>;

enum class WeightFormat { kFloat, kInt8, kInt8Packed, kInt8Scaled };

// Where a tensor is stored. In a specification both are templates with {layer} and {expert}.
struct TensorName {
  std::string checkpoint;
  std::string place;  // below `weights` of an exchange file: layers/0/wq
};

// The most bits of the activations that each site multiplies, by the site's number.
using SiteBits = std::array<int, 5>;

struct ModelSpec {
  DecoderSpec core;
  std::vector<RopeSpec> ropes;  // the tables, by number
  float query_growth = 0;       // q of position p times 1 + growth * log(1 + floor(p / positions))
  std::size_t query_positions = 1;
  float norm_offset = 0;     // added to the gains of all norms
  bool whole_norms = false;  // of q and k
  std::size_t max_positions = 0;
  WeightFormat weights = WeightFormat::kFloat;
  SiteBits int8_bits = {}, exact_bits = {};
  std::map<std::string, std::vector<TensorName>> names;  // by role

  bool has(const std::string& role) const { return names.count(role) != 0; }
  bool tied() const { return !has("lm_head"); }
  bool is_integer() const { return weights != WeightFormat::kFloat; }
  bool is_packed() const { return weights == WeightFormat::kInt8Packed || weights == WeightFormat::kInt8Scaled; }
  std::size_t longest() const;  // tokens of a sequence, at most
};

// A parameter of a decoder: the rows of its tensors stacked, or a vector (no columns).
struct Parameter {
  const char* role;
  int layer;                      // -1: of no layer
  int expert;                     // -1: of none; experts + s for the shared expert s
  std::vector<std::size_t> rows;  // of its parts: that many tensors, or one that holds all
  std::size_t columns;
  std::optional<Site> site;  // of which it is the weight

  std::size_t all_rows() const;
};

// Visits every parameter of a model, layer by layer. There may be millions: nothing is stored, so that a visitor who
// misses one can stop.
void each_parameter(const ModelSpec& spec, const std::function<void(const Parameter&)>& visit);

// Names and places of a parameter's tensors, in the order in which their rows are stacked.
std::vector<TensorName> stored(const ModelSpec& spec, const char* role, int layer = -1, int expert = -1);

// Visits every tensor of a parameter with its shape.
void each_tensor(const ModelSpec& spec, const Parameter& parameter,
                 const std::function<void(const TensorName&, const Shape&)>& visit);

enum class Weights { kFloats, kAny };

// The object `content` as a specification; `source` names it in errors. Error for one that isn't complete, contradicts
// itself, or has what isn't known: cutset.models.files.specification says the rules.
ModelSpec read_specification(const Json& content, const std::string& source, Weights allowed);

// "(61, 48)", and "(48,)" as Python writes it.
std::string text(const Shape& shape);

}  // namespace cutset::runner
