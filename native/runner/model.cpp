#include "runner/model.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "runner/error.h"

namespace cutset::runner {

namespace {

std::size_t count(const Tensor& tensor) { return elements(tensor.shape, tensor.where); }

// One tensor after another, in float32 or in the 16 bits that all of them have.
void read_floats(const std::vector<const Tensor*>& tensors, ThreadPool& pool, FloatType type, void* out) {
  for (const Tensor* tensor : tensors) {
    if (type == FloatType::kFloat32) {
      tensor->read_floats(pool, static_cast<float*>(out));
    } else {
      tensor->read_halves(pool, static_cast<std::uint16_t*>(out));
    }
    out = static_cast<char*>(out) + count(*tensor) * float_bytes(type);
  }
}

std::size_t count(const std::vector<const Tensor*>& tensors) {
  std::size_t all = 0;
  for (const Tensor* tensor : tensors) all += count(*tensor);
  return all;
}

}  // namespace

Model::Model(ModelSpec spec, const Tensors& tensors, Precision precision, ThreadPool& pool)
    : spec_(std::move(spec)), precision_(precision), tensors_(tensors), pool_(pool) {
  Parameters parameters;
  parameters.whole_norms = spec_.whole_norms;
  parameters.embedding = kept_matrix("embedding");
  parameters.final_norm = kept("final_norm");
  for (std::size_t layer = 0; layer < spec_.core.layers; ++layer) parameters.layers.push_back(layer_parameters(layer));
  decoder_ = std::make_unique<Decoder>(spec_.core, std::move(parameters), pool);
  linears_ = std::make_unique<LocalLinears>(spec_.core, pool);
  const auto pack = [&](const Parameter& parameter) {
    if (!parameter.site) return;
    if (precision == Precision::kFloat32) return pack_floats(parameter);
    precision == Precision::kInt8 && !spec_.is_integer() ? pack_groups(parameter) : pack_integers(parameter);
  };
  each_parameter(spec_, pack);
  if (spec_.tied()) pack({"embedding", -1, -1, {spec_.core.vocab}, spec_.core.hidden, Site::kLmHead});
  for (Workspace* used : {&stack_, &codes_, &scales_}) *used = Workspace();
}

std::vector<const Tensor*> Model::tensors_of(const char* role, int layer, int expert) const {
  std::vector<const Tensor*> found;
  for (const TensorName& name : stored(spec_, role, layer, expert)) found.push_back(&tensors_.at(name.checkpoint));
  return found;
}

FloatType Model::type_of(const std::vector<const Tensor*>& tensors) const {
  return precision_ == Precision::kFloat32 ? float_type(tensors) : FloatType::kFloat32;
}

FloatView Model::kept_matrix(const char* role, int layer) {
  const std::vector<const Tensor*> tensors = tensors_of(role, layer);
  const FloatType type = type_of(tensors);
  Buffer memory(checked_product(count(tensors), float_bytes(type)));
  read_floats(tensors, pool_, type, memory.as<void>());
  kept_.push_back(std::move(memory));
  return {kept_.back().as<void>(), type};
}

const float* Model::kept(const char* role, int layer) {
  if (!spec_.has(role)) return nullptr;
  const std::vector<const Tensor*> tensors = tensors_of(role, layer);
  Buffer memory(checked_product(count(tensors), sizeof(float)));
  float* values = memory.as<float>();
  read_floats(tensors, pool_, FloatType::kFloat32, values);
  const std::string name = role;
  if (name.size() > 5 && name.compare(name.size() - 5, 5, "_norm") == 0) {
    for (std::size_t i = 0; i < count(tensors); ++i) values[i] += spec_.norm_offset;
  }
  kept_.push_back(std::move(memory));
  return kept_.back().as<float>();
}

LayerParameters Model::layer_parameters(std::size_t layer) {
  const int number = static_cast<int>(layer);
  LayerParameters found;
  found.attention_norm = kept("attention_norm", number);
  found.attention_output_norm = kept("attention_output_norm", number);
  found.mlp_output_norm = kept("mlp_output_norm", number);
  found.sinks = kept("sinks", number);
  found.mlp_norm = kept("mlp_norm", number);
  found.qkv_bias = kept("qkv_bias", number);
  found.o_bias = kept("o_bias", number);
  found.q_norm = kept("q_norm", number);
  found.k_norm = kept("k_norm", number);
  if (spec_.core.is_sparse(layer)) {
    found.router = kept_matrix("router", number);
    found.router_bias = kept("router_bias", number);
    found.expert_gate_up_bias = kept("expert_gate_up_bias", number);
    found.expert_down_bias = kept("expert_down_bias", number);
  } else {
    found.gate_up_bias = kept("gate_up_bias", number);
    found.down_bias = kept("down_bias", number);
  }
  return found;
}

// The matrices of a site, their rows one after another; in float32 unless the products are.
FloatView Model::stacked(const Parameter& parameter) {
  if (parameter.layer < 0 && spec_.tied()) return decoder_->parameters().embedding;
  const std::vector<const Tensor*> tensors = tensors_of(parameter.role, parameter.layer, parameter.expert);
  const FloatType type = type_of(tensors);
  void* weight = stack_.take(checked_product(count(tensors), float_bytes(type)));
  read_floats(tensors, pool_, type, weight);
  return {weight, type};
}

void Model::pack_floats(const Parameter& parameter) {
  floats_.push_back(std::make_unique<PackedF32>(stacked(parameter), parameter.all_rows(), parameter.columns, pool_));
  linears_->put(*parameter.site, parameter.layer, parameter.expert, *floats_.back());
}

// Scales that were moved between channels: nothing here is computed with them, but bad ones mean a bad file.
void Model::check_channels(const Tensor& channels) {
  std::vector<float> values(channels.shape[0]);
  channels.read_floats(pool_, values.data());
  if (std::any_of(values.begin(), values.end(), [](float scale) { return scale <= 0; })) {
    fail(channels.where, " must be above 0");
  }
}

// The weights of a site from an integer checkpoint, which is mapped and never base64.
void Model::stored_integers(const Parameter& parameter, float* scales) {
  const auto bytes = [](const Tensor& tensor) { return reinterpret_cast<const std::int8_t*>(tensor.data.data()); };
  std::vector<RowsI8> parts;
  float* next = scales;
  for (const TensorName& name : stored(spec_, parameter.role, parameter.layer, parameter.expert)) {
    const Tensor& matrix = tensors_.at(name.checkpoint);
    const Tensor& factors = tensors_.at(scale_name(name.checkpoint));
    factors.read_floats(pool_, next);
    if (std::any_of(next, next + factors.shape[0], [](float scale) { return scale < 0; })) {
      fail(factors.where, " must not be negative");
    }
    if (spec_.weights == WeightFormat::kInt8Scaled) check_channels(tensors_.at(channel_scale_name(name.checkpoint)));
    parts.push_back({bytes(matrix), next, factors.shape[0]});
    next += factors.shape[0];
  }
  if (spec_.weights == WeightFormat::kInt8) {
    integers_.push_back(std::make_unique<PackedI8>(parts, parameter.columns, pool_));
    return;
  }
  const PanelsI8 panels{parts.front().weight, scales, parameter.all_rows(), parameter.columns};
  integers_.push_back(std::make_unique<PackedI8>(panels, pool_));
  integers_.back()->move_in(pool_);
}

void Model::pack_integers(const Parameter& parameter) {
  const std::size_t outputs = parameter.all_rows(), depth = parameter.columns;
  auto* scales = static_cast<float*>(scales_.take(checked_product(outputs, sizeof(float))));
  const Tensor& first = *tensors_of(parameter.role, parameter.layer, parameter.expert).front();
  try {
    if (spec_.is_integer()) {
      stored_integers(parameter, scales);
      first.file->forget();
    } else {
      auto* codes = static_cast<std::int8_t*>(codes_.take(checked_product(outputs, depth)));
      quantize_weight(pool_, stacked(parameter).float32(), outputs, depth, codes, scales);
      integers_.push_back(std::make_unique<PackedI8>(codes, scales, outputs, depth, pool_));
    }
  } catch (const std::invalid_argument& error) {
    fail(first.where, " can't be used: ", error.what());
  }
  const SiteBits& wanted = precision_ == Precision::kInt8 ? spec_.int8_bits : spec_.exact_bits;
  const int bits = std::min(wanted[static_cast<std::size_t>(*parameter.site)], integers_.back()->most_bits());
  if (bits < PackedI8::kLeastBits) fail(first.where, ": its sums of ", depth, " products overflow");
  linears_->put(*parameter.site, parameter.layer, parameter.expert, *integers_.back(), bits);
}

// Floats rounded to 8 bits in groups of 64 columns: models/run/grouped_linears.py has the same numbers.
void Model::pack_groups(const Parameter& parameter) {
  constexpr int kBits = 8, kActivationBits = 12;
  const std::size_t outputs = parameter.all_rows(), depth = parameter.columns;
  std::size_t group = depth;
  for (const std::size_t size : {16, 32, 64}) group = depth % size == 0 ? size : group;
  const std::size_t groups = depth / group, span = std::min(round_up(group, kSlab), kMostSpan);
  auto* codes = static_cast<std::uint8_t*>(codes_.take(checked_product(outputs, depth)));
  auto* scales = static_cast<float*>(scales_.take(checked_product(checked_product(outputs, groups), sizeof(float))));
  try {
    quantize_groups(pool_, stacked(parameter).float32(), outputs, depth, kBits, group, codes, scales, nullptr);
    const GroupedPart part{codes, outputs, {FactorKind::kFloat, scales, groups, StepKind::kNone, nullptr}, {}, nullptr};
    const GroupedShape shape{kBits, depth, span, 128, nullptr, nullptr};
    groups_.push_back(std::make_unique<PackedGrouped>(shape, std::vector<GroupedPart>{part}, pool_));
  } catch (const std::invalid_argument& error) {
    fail(tensors_of(parameter.role, parameter.layer, parameter.expert).front()->where,
         " can't be used: ", error.what());
  }
  const LocalLinears::Part whole = groups_.back().get();
  linears_->put(*parameter.site, parameter.layer, parameter.expert, {whole}, kActivationBits);
}

}  // namespace cutset::runner
