#include "runner/spec.h"

namespace cutset::runner {

namespace {

// Where the MLP of that number lies: below a layer in Hugging Face layout, and below one in an exchange file.
struct MlpName {
  std::string checkpoint;
  std::string exchange;
};

MlpName mlp_name(const DecoderSpec& spec, int expert) {
  if (expert < 0) return {"mlp.", ""};
  const bool routed = static_cast<std::size_t>(expert) < spec.experts;
  const std::string number = std::to_string(routed ? expert : expert - static_cast<int>(spec.experts));
  const std::string kind = routed ? "experts" : "shared_experts";
  return {"mlp." + kind + "." + number + ".", kind + "/" + number + "/"};
}

// Numbers of a layer's MLPs: -1 for a dense one, else experts and shared experts.
int first_mlp(const DecoderSpec& spec, std::size_t layer) { return spec.is_sparse(layer) ? 0 : -1; }
int end_mlp(const DecoderSpec& spec, std::size_t layer) {
  return spec.is_sparse(layer) ? static_cast<int>(spec.experts + spec.shared) : 0;
}

class LayerTensors {
 public:
  LayerTensors(const ModelSpec& spec, std::size_t layer, const std::function<void(const Wanted&)>& visit)
      : spec_(spec),
        core_(spec.core),
        layer_(layer),
        block_("model.layers." + std::to_string(layer) + "."),
        place_("layers/" + std::to_string(layer) + "/"),
        visit_(visit) {}

  void all() const {
    give("input_layernorm.weight", "rms_attn", {core_.hidden});
    const HeadShape& heads = core_.heads;
    attention("q", heads.q_size());
    attention("k", heads.kv_size());
    attention("v", heads.kv_size());
    give("self_attn.o_proj.weight", "wo", {core_.hidden, heads.q_size()}, true);
    if (spec_.o_bias) give("self_attn.o_proj.bias", "bo", {core_.hidden});
    give("post_attention_layernorm.weight", "rms_ffn", {core_.hidden});
    if (core_.is_sparse(layer_)) give("mlp.gate.weight", "router", {core_.experts, core_.hidden});
    for (int expert = first_mlp(core_, layer_); expert < end_mlp(core_, layer_); ++expert) {
      const std::size_t width = core_.width(expert);
      mlp(expert, "gate", {width, core_.hidden});
      mlp(expert, "up", {width, core_.hidden});
      mlp(expert, "down", {core_.hidden, width});
    }
  }

 private:
  void attention(const std::string& part, std::size_t size) const {
    give("self_attn." + part + "_proj.weight", "w" + part, {size, core_.hidden}, true);
    if (spec_.qkv_bias) give("self_attn." + part + "_proj.bias", "b" + part, {size});
    if (spec_.qk_norm && part != "v")
      give("self_attn." + part + "_norm.weight", part + "_norm", {core_.heads.head_dim});
  }

  void mlp(int expert, const std::string& part, const Shape& shape) const {
    const MlpName name = mlp_name(core_, expert);
    give(name.checkpoint + part + "_proj.weight", name.exchange + "w_" + part, shape, true);
    if (spec_.mlp_bias && expert < 0) give(name.checkpoint + part + "_proj.bias", "b_" + part, {shape[0]});
  }

  void give(const std::string& name, const std::string& place, Shape shape, bool matrix = false) const {
    visit_({block_ + name, place_ + place, std::move(shape), matrix});
  }

  const ModelSpec& spec_;
  const DecoderSpec& core_;
  std::size_t layer_;
  std::string block_, place_;
  const std::function<void(const Wanted&)>& visit_;
};

}  // namespace

void each_tensor(const ModelSpec& spec, const std::function<void(const Wanted&)>& visit) {
  const Shape table = {spec.core.vocab, spec.core.hidden};
  visit({"model.embed_tokens.weight", "tok_embedding", table, false});
  for (std::size_t layer = 0; layer < spec.core.layers; ++layer) LayerTensors(spec, layer, visit).all();
  visit({"model.norm.weight", "final_rms", {spec.core.hidden}, false});
  if (!spec.tied) visit({"lm_head.weight", "lm_head", table, true});
}

void each_site(const ModelSpec& spec, const SiteVisitor& visit) {
  for (std::size_t l = 0; l < spec.core.layers; ++l) {
    const int layer = static_cast<int>(l);
    const std::string block = "model.layers." + std::to_string(l) + ".";
    const std::string attention = block + "self_attn.";
    visit(Site::kQkv, layer, -1,
          {attention + "q_proj.weight", attention + "k_proj.weight", attention + "v_proj.weight"});
    visit(Site::kO, layer, -1, {attention + "o_proj.weight"});
    for (int expert = first_mlp(spec.core, l); expert < end_mlp(spec.core, l); ++expert) {
      const std::string mlp = block + mlp_name(spec.core, expert).checkpoint;
      visit(Site::kGateUp, layer, expert, {mlp + "gate_proj.weight", mlp + "up_proj.weight"});
      visit(Site::kDown, layer, expert, {mlp + "down_proj.weight"});
    }
  }
  visit(Site::kLmHead, -1, -1, {spec.tied ? "model.embed_tokens.weight" : "lm_head.weight"});
}

std::string text(const Shape& shape) {
  std::string out = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + (shape.size() == 1 ? ",)" : ")");
}

}  // namespace cutset::runner
