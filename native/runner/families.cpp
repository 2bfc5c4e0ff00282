#include "runner/families.h"

#include <cmath>
#include <map>
#include <vector>

#include "runner/error.h"
#include "runner/fields.h"

namespace cutset::runner {

namespace {

using Windows = std::vector<std::size_t>;

// What a family takes a missing field for.
struct Defaults {
  std::size_t positions;
  std::optional<std::size_t> kv_heads = {}, head_dim = {}, intermediate = {};
  double theta = 10000.0;
  double eps = 1e-6;
  bool tied = false;
};

// `sliding_window`: null is none; it is absent where a file keeps to the families' default.
std::size_t read_window(const Fields& c) { return c.integer("sliding_window", c.names("sliding_window") ? 0 : 4096); }

// Windows by layer: `layer_types` where the file has it, else `window` from layer `first` on.
Windows read_windows(const Fields& c, std::size_t window, std::size_t first) {
  const std::size_t layers = c.integer("num_hidden_layers");
  const Json& kinds = c.value("layer_types");
  Windows windows(layers, 0);
  if (kinds.is_null()) {
    for (std::size_t i = first; i < layers; ++i) windows[i] = window;
    return windows;
  }
  const auto wrong = [&c, layers] {
    c.wrong("layer_types", "a list of " + std::to_string(layers) + " times full_attention or sliding_attention");
  };
  if (!kinds.is_array() || kinds.size() != layers) wrong();
  bool slides = false;
  for (const Json& kind : kinds) {
    slides = slides || kind == "sliding_attention";
    if (kind != "sliding_attention" && kind != "full_attention" && kind != "attention") wrong();
  }
  if (!slides) return windows;
  if (c.value("use_sliding_window") == false) {
    fail(c.source(), ": layer_types names sliding layers, but use_sliding_window is false");
  }
  if (!window) window = read_window(c);
  if (!window) fail(c.source(), ": layer_types names sliding layers, but sliding_window is null");
  for (std::size_t i = 0; i < layers; ++i) windows[i] = kinds[i] == "sliding_attention" ? window : 0;
  return windows;
}

void check_token_ids(const Fields& c, const char* name) {
  const Json& value = c.value(name);
  bool right = value.is_null() || value.is_number_integer();
  if (value.is_array()) {
    right = true;
    for (const Json& id : value) right = right && id.is_number_integer();
  }
  if (!right) c.wrong(name, "a token id or a list of them");
}

void check_words(const Fields& c) {
  const std::string activation = c.word("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    fail(c.source(), ": unknown hidden_act ", quoted(c.value("hidden_act")), "; known is silu");
  }
  check_token_ids(c, "bos_token_id");
  check_token_ids(c, "eos_token_id");
}

int integer_version(const Fields& c) {
  const std::optional<Fields> quantization = c.table("quantization_config");
  if (!quantization) return 0;
  if (quantization->word("quant_method", "") != "cutset") {
    fail(c.source(), ": a quantised checkpoint of another program; use the float one it came from");
  }
  const Json& version = quantization->value("version");
  if (version != 1 && version != 2) {
    fail(c.source(), ": an integer checkpoint of version ", quoted(version), "; quantise it again");
  }
  return version.get<int>();
}

HeadShape read_heads(const Fields& c, std::size_t hidden, const Defaults& defaults) {
  const std::size_t heads = c.integer("num_attention_heads");
  const std::size_t absent = c.names("num_key_value_heads") ? heads : defaults.kv_heads.value_or(heads);
  const std::size_t kv_heads = c.integer("num_key_value_heads", absent);
  if (heads % kv_heads) {
    fail(c.source(), ": ", heads, " attention heads can't share ", kv_heads, " key-value heads evenly");
  }
  const std::size_t head_dim = c.integer("head_dim", defaults.head_dim.value_or(hidden / heads));
  if (!c.has("head_dim") && !defaults.head_dim && hidden % heads) {
    fail(c.source(), ": hidden_size ", hidden, " doesn't divide into ", heads, " heads; give head_dim");
  }
  if (head_dim % 2) fail(c.source(), ": head_dim ", head_dim, " is odd: the rotary embedding needs pairs");
  return {heads, kv_heads, head_dim};
}

ModelSpec common(const Fields& c, const Defaults& defaults) {
  ModelSpec spec;
  DecoderSpec& core = spec.core;
  core.hidden = c.integer("hidden_size");
  core.layers = c.integer("num_hidden_layers");
  core.vocab = c.integer("vocab_size");
  core.heads = read_heads(c, core.hidden, defaults);
  core.intermediate = c.integer("intermediate_size", defaults.intermediate);
  core.norm_eps = static_cast<float>(c.number("rms_norm_eps", defaults.eps));
  check_words(c);
  spec.integer = integer_version(c);
  spec.max_positions = c.integer("max_position_embeddings", defaults.positions);
  spec.rope = read_rope(c, defaults.theta, spec.max_positions);
  spec.longest = longest(spec.rope, spec.max_positions);
  spec.tied = c.flag("tie_word_embeddings", defaults.tied);
  return spec;
}

// What a family takes a missing field of its mixture of experts for.
struct Mixture {
  const char* experts;  // the field that says how many
  std::size_t count, top_k, width;
  bool normalise;
  std::size_t shared = 0;
};

void read_mixture(const Fields& c, const Mixture& mixture, DecoderSpec& core) {
  core.experts = c.integer(mixture.experts, mixture.count);
  core.top_k = c.integer("num_experts_per_tok", mixture.top_k);
  if (core.top_k > core.experts) {
    fail(c.source(), ": num_experts_per_tok is ", core.top_k, ", but there are ", core.experts, " experts");
  }
  core.expert_intermediate = c.integer("moe_intermediate_size", mixture.width);
  core.normalise = c.flag("norm_topk_prob", mixture.normalise);
  core.shared = mixture.shared;
  core.shared_intermediate = mixture.shared ? c.integer("intermediate_size", mixture.width) : 0;
  constexpr std::size_t kMostMlps = std::size_t{1} << 18;
  if (core.layers * (core.experts + core.shared) > kMostMlps) {
    fail(c.source(), ": ", core.layers, " layers of ", core.experts, " experts are more than ", kMostMlps, " MLPs");
  }
}

ModelSpec llama(const Fields& c) {
  ModelSpec spec = common(c, {2048});
  spec.qkv_bias = spec.o_bias = c.flag("attention_bias");
  spec.mlp_bias = c.flag("mlp_bias");
  return spec;
}

ModelSpec mistral(const Fields& c) {
  Defaults defaults{131072};
  defaults.kv_heads = 8;
  ModelSpec spec = common(c, defaults);
  spec.core.windows = read_windows(c, read_window(c), 0);
  return spec;
}

Windows qwen_windows(const Fields& c) {
  const std::size_t window = c.flag("use_sliding_window") ? read_window(c) : 0;
  return read_windows(c, window, c.integer("max_window_layers", 28, 0));
}

// What an absent num_key_value_heads means: 32, or all heads where those can't share 32, as in a file by hand.
std::size_t qwen_kv_heads(const Fields& c) {
  const std::size_t heads = c.integer("num_attention_heads");
  return heads % 32 ? heads : 32;
}

ModelSpec qwen2(const Fields& c) {
  Defaults defaults{32768};
  defaults.kv_heads = qwen_kv_heads(c);
  ModelSpec spec = common(c, defaults);
  spec.qkv_bias = true;
  spec.core.windows = qwen_windows(c);
  return spec;
}

ModelSpec qwen3(const Fields& c) {
  Defaults defaults{32768};
  defaults.head_dim = 128;
  defaults.kv_heads = qwen_kv_heads(c);
  ModelSpec spec = common(c, defaults);
  spec.qk_norm = true;
  spec.qkv_bias = spec.o_bias = c.flag("attention_bias");
  spec.core.windows = qwen_windows(c);
  return spec;
}

ModelSpec qwen3_moe(const Fields& c) {
  Defaults defaults{32768};
  defaults.kv_heads = 4;
  ModelSpec spec = common(c, defaults);
  spec.qk_norm = true;
  spec.qkv_bias = spec.o_bias = c.flag("attention_bias");
  // Of all layers: the family has no layer_types.
  spec.core.windows.assign(spec.core.layers, c.flag("use_sliding_window") ? read_window(c) : 0);
  const char* experts = c.has("num_local_experts") ? "num_local_experts" : "num_experts";
  read_mixture(c, {experts, 128, 8, 768, false}, spec.core);
  const std::size_t step = c.integer("decoder_sparse_step", 1);
  const Json& dense = c.value("mlp_only_layers");
  if (truthy(dense) && !dense.is_array()) c.wrong("mlp_only_layers", "a list of layers");
  for (std::size_t layer = 0; layer < spec.core.layers; ++layer) {
    const bool named = dense.is_array() && std::find(dense.begin(), dense.end(), layer) != dense.end();
    spec.core.sparse.push_back(!named && (layer + 1) % step == 0);
  }
  return spec;
}

// MiniMind: without Q/K norm and with shared experts until 2025, like Qwen3 since. The file doesn't say which; its
// fields do.
ModelSpec minimind(const Fields& c) {
  const bool old = c.has("n_routed_experts") || !(c.has("num_experts") || c.has("head_dim"));
  const auto hidden = static_cast<double>(c.integer("hidden_size"));
  const double wide = old ? std::floor(hidden * 8 / 3) : hidden * 3.14159265358979323846;
  const std::size_t width = c.integer("intermediate_size", 64 * static_cast<std::size_t>(std::ceil(wide / 64)));
  Defaults defaults{32768};
  defaults.kv_heads = old ? 2 : 4;
  defaults.intermediate = width;
  defaults.theta = 1e6;
  defaults.eps = old ? 1e-5 : 1e-6;
  defaults.tied = true;
  ModelSpec spec = common(c, defaults);
  spec.rope = RopeSpec();
  spec.rope.theta = c.number("rope_theta", 1e6);
  if (c.flag("inference_rope_scaling") && spec.max_positions > 2048) {
    spec.rope.kind = "yarn";
    spec.rope.factor = 16.0;
    spec.rope.original_positions = 2048;
    spec.rope.half_ramp = true;
  }
  spec.longest = longest(spec.rope, spec.max_positions);
  spec.qk_norm = c.flag("qk_norm", !old);
  if (!c.flag("use_moe")) return spec;
  spec.core.sparse.assign(spec.core.layers, true);
  if (!old) {
    read_mixture(c, {"num_experts", 4, 1, width, true}, spec.core);
    return spec;
  }
  if (c.word("scoring_func", "softmax") != "softmax") c.wrong("scoring_func", "softmax");
  read_mixture(c, {"n_routed_experts", 4, 2, width, true, c.integer("n_shared_experts", 1, 0)}, spec.core);
  if (spec.core.top_k == 1) spec.core.normalise = false;  // the old gate leaves a single weight as it is
  return spec;
}

}  // namespace

ModelSpec spec_from_config(const Json& config, const std::string& source) {
  static const std::map<std::string, ModelSpec (*)(const Fields&)> families = {
      {"llama", llama}, {"mistral", mistral},     {"qwen2", qwen2},
      {"qwen3", qwen3}, {"qwen3_moe", qwen3_moe}, {"minimind", minimind}};
  const Fields fields(config, source);
  for (const char* name : {"per_layer_config", "transformers_weights"}) {
    if (truthy(fields.value(name))) fail(source, ": ", name, " is not supported");
  }
  const auto read = families.find(fields.word("model_type", ""));
  if (read != families.end()) {
    const ModelSpec spec = read->second(fields);
    if (spec.rope.kind == "dynamic" && spec.core.heads.head_dim <= 2) {  // its exponent divides by head_dim - 2
      fail(source, ": its dynamic rotary embedding gives frequencies that aren't finite");
    }
    return spec;
  }
  std::string known;
  for (const auto& family : families) known += (known.empty() ? "" : ", ") + family.first;
  fail(source, ": unknown model_type ", quoted(fields.value("model_type")), "; known are ", known);
}

}  // namespace cutset::runner
