// A decoder as a configuration describes it: what the core must know, and the names of its tensors.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "core/spec.h"
#include "runner/rope.h"

namespace cutset::runner {

using Shape = std::vector<std::size_t>;

// The C++ side of cutset.models.spec.DecoderSpec, which documents the fields.
struct ModelSpec {
  DecoderSpec core;
  RopeSpec rope;
  std::size_t max_positions = 0;
  std::size_t longest = 0;  // tokens of a sequence, at most
  bool tied = false;
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;
  int integer = 0;  // the version of an integer checkpoint's form; 0: floats
};

// A tensor that a model must hold.
struct Wanted {
  std::string name;   // in Hugging Face layout
  std::string place;  // below `weights` of an exchange file: layers/0/wq
  Shape shape;
  bool matrix;  // a weight of a site
};

// Visits every tensor of a model in the order of cutset.models.spec.DecoderSpec.tensor_shapes. There may be millions:
// nothing is stored, so that a visitor who misses one can stop.
void each_tensor(const ModelSpec& spec, const std::function<void(const Wanted&)>& visit);

// Visits every site in the order of a forward pass, with the names of its weights in the order in which they stack.
using SiteVisitor = std::function<void(Site site, int layer, int expert, const std::vector<std::string>& names)>;
void each_site(const ModelSpec& spec, const SiteVisitor& visit);

// "(61, 48)", and "(48,)" as Python writes it.
std::string text(const Shape& shape);

}  // namespace cutset::runner
