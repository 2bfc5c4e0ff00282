// Which tensors a model must hold, in float and in integer checkpoints.
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "kernels/linear.h"
#include "runner/error.h"
#include "runner/tensor.h"

namespace cutset::runner {

namespace {

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// Moves the tensors that are asked for out of all that there are; what stays is unexpected.
class Picker {
 public:
  Picker(Tensors tensors, const std::string& where) : rest_(std::move(tensors)), where_(where) {}

  void floats(const std::string& name, const Shape& shape) {
    const Dtype dtype = take(name, shape);
    if (!is_float(dtype)) fail(picked_[name].where, " has dtype ", runner::name(dtype), "; a float was expected");
  }

  void exactly(const std::string& name, const Shape& shape, Dtype wanted) {
    const Dtype dtype = take(name, shape);
    if (dtype != wanted) {
      fail(picked_[name].where, " has dtype ", runner::name(dtype), "; ", runner::name(wanted), " was expected");
    }
  }

  Tensors finish() {
    if (!rest_.empty()) fail(rest_.begin()->second.where, " is unexpected; the configuration has no place for it");
    return std::move(picked_);
  }

 private:
  Dtype take(const std::string& name, const Shape& shape) {
    auto node = rest_.extract(name);
    if (!node) fail(where_, ": tensor ", name, " is missing; the configuration asks for it");
    const Tensor& tensor = node.mapped();
    if (tensor.shape != shape) {
      fail(tensor.where, " has shape ", text(tensor.shape), "; the configuration asks for ", text(shape));
    }
    const Dtype dtype = tensor.dtype;
    picked_.insert(std::move(node));
    return dtype;
  }

  Tensors rest_, picked_;
  const std::string& where_;
};

}  // namespace

std::string stored_name(const ModelSpec& spec, const std::string& matrix) {
  // The embedding is looked up in float32 and multiplied in integers: tied, it is there twice.
  return spec.integer && spec.tied && matrix == kEmbedding ? kHead : matrix;
}

std::string packed_name(const ModelSpec& spec, const std::vector<std::string>& matrices) {
  std::string name = stored_name(spec, matrices.front());
  for (const auto& [one, several] : {std::pair("q_proj", "qkv_proj"), std::pair("gate_proj", "gate_up_proj")}) {
    const std::size_t at = name.find(one);
    if (at != std::string::npos) name.replace(at, std::strlen(one), several);
  }
  return name;
}

std::string scale_name(const std::string& matrix) { return matrix + "_scale"; }

bool has_own_head(const Tensors& tensors, ThreadPool& pool) {
  const auto embedding = tensors.find(kEmbedding), head = tensors.find(kHead);
  return embedding != tensors.end() && head != tensors.end() && !same_values(embedding->second, head->second, pool);
}

Tensors checked_tensors(const ModelSpec& spec, Tensors tensors, const std::string& where) {
  if (spec.integer) {
    Picker pick(std::move(tensors), where);
    const auto quantised = [&pick](const std::string& name, const Shape& shape, std::size_t outputs) {
      pick.exactly(name, shape, Dtype::kI8);
      pick.exactly(scale_name(name), {outputs}, Dtype::kF32);
    };
    const bool packed = spec.integer > 1;
    each_tensor(spec, [&](const Wanted& wanted) {
      if (!wanted.matrix) return pick.exactly(wanted.name, wanted.shape, Dtype::kF32);
      if (!packed) quantised(wanted.name, wanted.shape, wanted.shape[0]);
    });
    if (spec.tied && !packed) quantised(kHead, {spec.core.vocab, spec.core.hidden}, spec.core.vocab);
    if (packed) {
      each_site(spec, [&](Site site, int, int expert, const std::vector<std::string>& names) {
        const std::size_t outputs = spec.core.outputs(site, expert), depth = spec.core.inputs(site, expert);
        const Shape shape = {round_up(outputs, kPanel) / kPanel, round_up(depth, kDepthStep) / 4, kPanel, 4};
        quantised(packed_name(spec, names), shape, outputs);
      });
    }
    return pick.finish();
  }
  if (spec.tied) {  // both names may be there; which one is kept differs from program to program
    auto copy = tensors.extract(kHead);
    if (copy) {
      copy.key() = kEmbedding;
      tensors.insert(std::move(copy));  // nothing where it is there already
    }
  }
  // Buffers that old programs saved; the frequencies follow from the configuration.
  for (auto at = tensors.begin(); at != tensors.end();) {
    at = ends_with(at->first, "rotary_emb.inv_freq") ? tensors.erase(at) : std::next(at);
  }
  Picker pick(std::move(tensors), where);
  each_tensor(spec, [&](const Wanted& wanted) { pick.floats(wanted.name, wanted.shape); });
  return pick.finish();
}

}  // namespace cutset::runner
