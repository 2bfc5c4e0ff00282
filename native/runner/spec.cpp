#include "runner/spec.h"

#include <algorithm>
#include <numeric>

namespace cutset::runner {

namespace {

void replace(std::string& text, const std::string& what, int number) {
  const std::size_t at = number < 0 ? std::string::npos : text.find(what);
  if (at != std::string::npos) text.replace(at, what.size(), std::to_string(number));
}

// The parameters of one layer.
class Layer {
 public:
  Layer(const ModelSpec& spec, std::size_t layer, const std::function<void(const Parameter&)>& visit)
      : spec_(spec), core_(spec.core), layer_(layer), visit_(visit) {}

  void all() const {
    const HeadShape& heads = core_.heads;
    const std::vector<std::size_t> qkv = {heads.q_size(), heads.kv_size(), heads.kv_size()};
    if (spec_.has("attention_norm")) vector("attention_norm", {core_.hidden});
    matrix("qkv", Site::kQkv, qkv, core_.hidden);
    if (spec_.has("qkv_bias")) vector("qkv_bias", qkv);
    if (spec_.has("q_norm")) {
      vector("q_norm", {spec_.whole_norms ? heads.q_size() : heads.head_dim});
      vector("k_norm", {spec_.whole_norms ? heads.kv_size() : heads.head_dim});
    }
    matrix("o", Site::kO, {core_.hidden}, heads.q_size());
    if (spec_.has("o_bias")) vector("o_bias", {core_.hidden});
    if (spec_.has("sinks")) vector("sinks", {heads.heads});
    if (spec_.has("attention_output_norm")) vector("attention_output_norm", {core_.hidden});
    // Attention's say which norms there are: a name too few or too many of the MLP's is an error.
    if (spec_.has("attention_norm")) vector("mlp_norm", {core_.hidden});
    if (spec_.has("attention_output_norm")) vector("mlp_output_norm", {core_.hidden});
    core_.is_sparse(layer_) ? mixture() : dense();
  }

 private:
  void dense() const {
    const std::vector<std::size_t> both = {core_.intermediate, core_.intermediate};
    matrix("gate_up", Site::kGateUp, both, core_.hidden);
    matrix("down", Site::kDown, {core_.hidden}, core_.intermediate);
    if (spec_.has("gate_up_bias")) {
      vector("gate_up_bias", both);
      vector("down_bias", {core_.hidden});
    }
  }

  void mixture() const {
    give({"router", number(), -1, {core_.experts}, core_.hidden, {}});
    if (spec_.has("router_bias")) vector("router_bias", {core_.experts});
    if (spec_.has("expert_gate_up_bias")) {
      give({"expert_gate_up_bias", number(), -1, {core_.experts}, 2 * core_.expert_intermediate, {}});
      give({"expert_down_bias", number(), -1, {core_.experts}, core_.hidden, {}});
    }
    for (int expert = 0; expert < static_cast<int>(core_.experts + core_.shared); ++expert) {
      const bool routed = static_cast<std::size_t>(expert) < core_.experts;
      const std::size_t width = core_.width(layer_, expert);
      matrix(routed ? "expert_gate_up" : "shared_gate_up", Site::kGateUp, {width, width}, core_.hidden, expert);
      matrix(routed ? "expert_down" : "shared_down", Site::kDown, {core_.hidden}, width, expert);
    }
  }

  int number() const { return static_cast<int>(layer_); }
  void vector(const char* role, std::vector<std::size_t> rows) const {
    give({role, number(), -1, std::move(rows), 0, {}});
  }
  void matrix(const char* role, Site site, std::vector<std::size_t> rows, std::size_t columns, int expert = -1) const {
    give({role, number(), expert, std::move(rows), columns, site});
  }
  void give(const Parameter& parameter) const { visit_(parameter); }

  const ModelSpec& spec_;
  const DecoderSpec& core_;
  std::size_t layer_;
  const std::function<void(const Parameter&)>& visit_;
};

}  // namespace

std::size_t ModelSpec::longest() const {
  const RopeSpec& rope = ropes.front();
  return rope.dynamic ? kMostPositions : std::max(max_positions, rope.reach);
}

std::size_t Parameter::all_rows() const { return std::accumulate(rows.begin(), rows.end(), std::size_t{0}); }

void each_parameter(const ModelSpec& spec, const std::function<void(const Parameter&)>& visit) {
  visit({"embedding", -1, -1, {spec.core.vocab}, spec.core.hidden, {}});
  for (std::size_t layer = 0; layer < spec.core.layers; ++layer) Layer(spec, layer, visit).all();
  visit({"final_norm", -1, -1, {spec.core.hidden}, 0, {}});
  if (!spec.tied()) visit({"lm_head", -1, -1, {spec.core.vocab}, spec.core.hidden, Site::kLmHead});
}

std::vector<TensorName> stored(const ModelSpec& spec, const char* role, int layer, int expert) {
  const int routed = static_cast<int>(spec.core.experts);
  std::vector<TensorName> found = spec.names.at(role);
  for (TensorName& name : found) {
    for (std::string* part : {&name.checkpoint, &name.place}) {
      replace(*part, "{layer}", layer);
      replace(*part, "{expert}", expert < routed ? expert : expert - routed);
    }
  }
  return found;
}

void each_tensor(const ModelSpec& spec, const Parameter& parameter,
                 const std::function<void(const TensorName&, const Shape&)>& visit) {
  const std::vector<TensorName> names = stored(spec, parameter.role, parameter.layer, parameter.expert);
  for (std::size_t i = 0; i < names.size(); ++i) {
    Shape shape = {names.size() > 1 ? parameter.rows[i] : parameter.all_rows()};
    if (parameter.columns) shape.push_back(parameter.columns);
    visit(names[i], shape);
  }
}

std::string text(const Shape& shape) {
  std::string out = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + (shape.size() == 1 ? ",)" : ")");
}

}  // namespace cutset::runner
