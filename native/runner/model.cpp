#include "runner/model.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "runner/error.h"

namespace cutset::runner {

namespace {

constexpr const char* kEmbedding = "model.embed_tokens.weight";

std::size_t count(const Tensor& tensor) { return elements(tensor.shape, tensor.where); }

// As cutset.models.files.integer has it, which says why.
int activation_bits(Precision precision, Site site) {
  return precision == Precision::kInt8 && site == Site::kGateUp ? 8 : 12;
}

}  // namespace

Model::Model(ModelSpec spec, const Tensors& tensors, Precision precision, ThreadPool& pool)
    : spec_(std::move(spec)), tensors_(tensors), pool_(pool) {
  Parameters parameters;
  parameters.embedding = kept({kEmbedding});
  parameters.final_norm = kept({"model.norm.weight"});
  for (std::size_t layer = 0; layer < spec_.core.layers; ++layer) parameters.layers.push_back(layer_parameters(layer));
  decoder_ = std::make_unique<Decoder>(spec_.core, std::move(parameters), pool);
  linears_ = std::make_unique<LocalLinears>(spec_.core, pool);
  each_site(spec_, [&](Site site, int layer, int expert, const std::vector<std::string>& names) {
    if (precision == Precision::kFloat32) return pack_floats(site, layer, expert, names);
    pack_integers(site, layer, expert, names, activation_bits(precision, site));
  });
  for (Workspace* used : {&stack_, &codes_, &scales_}) *used = Workspace();
}

const float* Model::kept(const std::vector<std::string>& names) {
  std::size_t all = 0;
  for (const std::string& name : names) all += count(tensors_.at(name));
  Buffer memory(checked_product(all, sizeof(float)));
  float* next = memory.as<float>();
  for (const std::string& name : names) {
    const Tensor& tensor = tensors_.at(name);
    tensor.read_floats(pool_, next);
    next += count(tensor);
  }
  kept_.push_back(std::move(memory));
  return kept_.back().as<float>();
}

LayerParameters Model::layer_parameters(std::size_t layer) {
  const std::string block = "model.layers." + std::to_string(layer) + ".";
  const std::string attention = block + "self_attn.", mlp = block + "mlp.";
  LayerParameters found;
  found.attention_norm = kept({block + "input_layernorm.weight"});
  found.mlp_norm = kept({block + "post_attention_layernorm.weight"});
  if (spec_.qkv_bias) {
    found.qkv_bias = kept({attention + "q_proj.bias", attention + "k_proj.bias", attention + "v_proj.bias"});
  }
  if (spec_.o_bias) found.o_bias = kept({attention + "o_proj.bias"});
  if (spec_.qk_norm) {
    found.q_norm = kept({attention + "q_norm.weight"});
    found.k_norm = kept({attention + "k_norm.weight"});
  }
  if (spec_.core.is_sparse(layer)) {
    found.router = kept({mlp + "gate.weight"});
  } else if (spec_.mlp_bias) {
    found.gate_up_bias = kept({mlp + "gate_proj.bias", mlp + "up_proj.bias"});
    found.down_bias = kept({mlp + "down_proj.bias"});
  }
  return found;
}

// The matrices of a site in float32, their rows one after another.
const float* Model::stacked(const std::vector<std::string>& names) {
  if (names.front() == kEmbedding) return decoder_->parameters().embedding;
  std::size_t all = 0;
  for (const std::string& name : names) all += count(tensors_.at(name));
  float* weight = static_cast<float*>(stack_.take(checked_product(all, sizeof(float))));
  float* next = weight;
  for (const std::string& name : names) {
    tensors_.at(name).read_floats(pool_, next);
    next += count(tensors_.at(name));
  }
  return weight;
}

void Model::pack_floats(Site site, int layer, int expert, const std::vector<std::string>& names) {
  const std::size_t outputs = spec_.core.outputs(site, expert), depth = spec_.core.inputs(site, expert);
  floats_.push_back(std::make_unique<PackedF32>(stacked(names), outputs, depth, pool_));
  linears_->put(site, layer, expert, *floats_.back());
}

// The weights of a site from an integer checkpoint, which is mapped and never base64.
void Model::stored_integers(const std::vector<std::string>& names, float* scales, std::size_t outputs,
                            std::size_t depth) {
  const auto bytes = [](const Tensor& tensor) { return reinterpret_cast<const std::int8_t*>(tensor.data.data()); };
  std::vector<RowsI8> parts;
  float* next = scales;
  const auto read_scales = [&](const std::string& name) {
    const Tensor& stored = tensors_.at(scale_name(name));
    stored.read_floats(pool_, next);
    if (std::any_of(next, next + stored.shape[0], [](float scale) { return scale < 0; })) {
      fail(stored.where, " must not be negative");
    }
    next += stored.shape[0];
  };
  if (spec_.integer > 1) {
    const std::string name = packed_name(spec_, names);
    read_scales(name);
    integers_.push_back(std::make_unique<PackedI8>(PanelsI8{bytes(tensors_.at(name)), scales, outputs, depth}, pool_));
    integers_.back()->move_in(pool_);
    return;
  }
  for (const std::string& part : names) {
    const Tensor& matrix = tensors_.at(stored_name(spec_, part));
    parts.push_back({bytes(matrix), next, matrix.shape[0]});
    read_scales(stored_name(spec_, part));
  }
  integers_.push_back(std::make_unique<PackedI8>(parts, depth, pool_));
}

void Model::pack_integers(Site site, int layer, int expert, const std::vector<std::string>& names, int bits) {
  const std::size_t outputs = spec_.core.outputs(site, expert), depth = spec_.core.inputs(site, expert);
  auto* scales = static_cast<float*>(scales_.take(checked_product(outputs, sizeof(float))));
  const std::string name = spec_.integer > 1 ? packed_name(spec_, names) : stored_name(spec_, names.front());
  const Tensor& first = tensors_.at(name);
  const std::string& where = first.where;
  try {
    if (spec_.integer) {
      stored_integers(names, scales, outputs, depth);
      first.file->forget();
    } else {
      auto* codes = static_cast<std::int8_t*>(codes_.take(checked_product(outputs, depth)));
      quantize_weight(pool_, stacked(names), outputs, depth, codes, scales);
      integers_.push_back(std::make_unique<PackedI8>(codes, scales, outputs, depth, pool_));
    }
  } catch (const std::invalid_argument& error) {
    fail(where, " can't be used: ", error.what());
  }
  const int possible = std::min(bits, integers_.back()->most_bits());
  if (possible < PackedI8::kLeastBits) fail(where, ": its sums of ", depth, " products overflow");
  linears_->put(site, layer, expert, *integers_.back(), possible);
}

}  // namespace cutset::runner
