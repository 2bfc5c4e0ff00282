// The normalised specification: the rules are those of cutset.models.files.specification.
#include <algorithm>
#include <set>

#include "runner/error.h"
#include "runner/fields.h"
#include "runner/spec.h"

namespace cutset::runner {

namespace {

constexpr std::size_t kMostTokenIds = 1024;
constexpr std::size_t kMostTemplate = 200;
constexpr std::size_t kMostSteps = 7;
constexpr std::size_t kMostMlps = std::size_t{1} << 18;
constexpr std::size_t kMostRopes = 64;

const char* const kLayer = "{layer}";
const char* const kExpert = "{expert}";

enum class Kind { kOnce, kOfLayer, kOfExpert };

struct Role {
  Kind kind;
  std::size_t parts;  // tensors that its rows may lie in, besides one
};

const std::map<std::string, Role>& roles() {
  static const std::map<std::string, Role> known = {{"embedding", {Kind::kOnce, 1}},
                                                    {"final_norm", {Kind::kOnce, 1}},
                                                    {"lm_head", {Kind::kOnce, 1}},
                                                    {"attention_norm", {Kind::kOfLayer, 1}},
                                                    {"attention_output_norm", {Kind::kOfLayer, 1}},
                                                    {"mlp_norm", {Kind::kOfLayer, 1}},
                                                    {"mlp_output_norm", {Kind::kOfLayer, 1}},
                                                    {"sinks", {Kind::kOfLayer, 1}},
                                                    {"qkv", {Kind::kOfLayer, 3}},
                                                    {"qkv_bias", {Kind::kOfLayer, 3}},
                                                    {"q_norm", {Kind::kOfLayer, 1}},
                                                    {"k_norm", {Kind::kOfLayer, 1}},
                                                    {"o", {Kind::kOfLayer, 1}},
                                                    {"o_bias", {Kind::kOfLayer, 1}},
                                                    {"router", {Kind::kOfLayer, 1}},
                                                    {"router_bias", {Kind::kOfLayer, 1}},
                                                    {"expert_gate_up_bias", {Kind::kOfLayer, 1}},
                                                    {"expert_down_bias", {Kind::kOfLayer, 1}},
                                                    {"gate_up", {Kind::kOfLayer, 2}},
                                                    {"gate_up_bias", {Kind::kOfLayer, 2}},
                                                    {"down", {Kind::kOfLayer, 1}},
                                                    {"down_bias", {Kind::kOfLayer, 1}},
                                                    {"expert_gate_up", {Kind::kOfExpert, 2}},
                                                    {"expert_down", {Kind::kOfExpert, 1}},
                                                    {"shared_gate_up", {Kind::kOfExpert, 2}},
                                                    {"shared_down", {Kind::kOfExpert, 1}}};
  return known;
}

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::vector<std::string> split(const std::string& text, char between) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == between) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

// A word of a name, or a step of a place: that begins with a letter, because a number counts in a list.
bool is_word(const std::string& part, bool place) {
  const auto allowed = [](char c) { return is_letter(c) || is_digit(c) || c == '_' || c == '-'; };
  return !part.empty() && std::all_of(part.begin(), part.end(), allowed) &&
         (!place || is_letter(part[0]) || part[0] == '_');
}

// With # for every number, so that templates of which two numbers could make one name are equal; "" for a text that is
// no template of that kind.
std::string masked(const std::string& text, Kind kind, bool place) {
  const char between = place ? '/' : '.';
  const std::vector<std::string> parts = split(text, between);
  const auto count = [&parts](const char* what) { return std::count(parts.begin(), parts.end(), what); };
  if (text.size() > kMostTemplate || (place && parts.size() > kMostSteps)) return "";
  if (count(kLayer) != (kind != Kind::kOnce) || count(kExpert) != (kind == Kind::kOfExpert)) return "";
  std::string mask;
  for (const std::string& part : parts) {
    const bool placeholder = part == kLayer || part == kExpert;
    if (!placeholder && !is_word(part, place)) return "";
    const bool number = placeholder || std::all_of(part.begin(), part.end(), is_digit);
    mask += (mask.empty() ? "" : std::string(1, between)) + (number ? "#" : part);
  }
  return mask;
}

TensorName read_name(const Fields& table, const std::string& role, Kind kind, const Json& pair,
                     std::set<std::string>& known) {
  const bool right = pair.is_array() && pair.size() == 2 && pair[0].is_string() && pair[1].is_string();
  for (std::size_t i = 0; i < 2; ++i) {
    const std::string mask = right ? masked(pair[i].get<std::string>(), kind, i == 1) : "";
    if (mask.empty()) {
      const char* held = kind == Kind::kOnce      ? "no placeholder"
                         : kind == Kind::kOfLayer ? "{layer}"
                                                  : "{layer} and {expert}";
      table.wrong(role.c_str(), std::string("pairs of a name and a place with ") + held);
    }
    if (!known.insert((i ? "/" : ".") + mask).second) {
      fail(table.source(), ": ", pair[i].get<std::string>(), " stands there twice");
    }
  }
  return {pair[0].get<std::string>(), pair[1].get<std::string>()};
}

void read_names(const Fields& c, ModelSpec& spec) {
  const Fields table = c.table("tensors");
  std::set<std::string> known;
  for (const auto& item : c.value("tensors").items()) {
    const auto role = roles().find(item.key());
    if (role == roles().end()) fail(table.source(), ": ", item.key().substr(0, 60), " is not known");
    const auto [kind, parts] = role->second;
    if (!item.value().is_array() || (item.value().size() != 1 && item.value().size() != parts)) {
      table.wrong(item.key().c_str(), "a list of " + std::to_string(parts) + " names, or of one that holds all rows");
    }
    for (const Json& pair : item.value()) {
      spec.names[item.key()].push_back(read_name(table, item.key(), kind, pair, known));
    }
  }
}

// Exactly the parameters of this model must be named.
void check_names(const ModelSpec& spec, const std::string& source) {
  if (!spec.has("attention_norm") && !spec.has("attention_output_norm")) {
    fail(source, ": tensors must name attention_norm, attention_output_norm, or both");
  }
  std::set<std::string> wanted;
  each_parameter(spec, [&](const Parameter& parameter) {
    if (!spec.has(parameter.role)) fail(source, ": tensors doesn't name ", parameter.role);
    wanted.insert(parameter.role);
    const std::size_t tensors = spec.names.at(parameter.role).size();
    if (parameter.site && spec.is_packed() && tensors != 1) {
      fail(source, ": tensors names several for ", parameter.role, ", which is packed in one");
    }
  });
  for (const auto& named : spec.names) {
    if (!wanted.count(named.first)) fail(source, ": tensors names what the model doesn't have: ", named.first);
  }
  if (spec.is_integer() && spec.tied()) fail(source, ": tensors doesn't name lm_head");
}

SiteBits read_bits(const Fields& bits, const char* dtype) {
  const Fields c = bits.table(dtype);
  c.only({"qkv", "o", "gate_up", "down", "lm_head"});
  SiteBits found{};
  for (const auto& [site, name] : {std::pair(Site::kQkv, "qkv"),
                                   {Site::kO, "o"},
                                   {Site::kGateUp, "gate_up"},
                                   {Site::kDown, "down"},
                                   {Site::kLmHead, "lm_head"}}) {
    found[static_cast<std::size_t>(site)] = static_cast<int>(c.integer(name, 12, 8));
  }
  return found;
}

std::vector<float> read_frequencies(const Fields& c, std::size_t pairs) {
  std::vector<float> found;
  for (const Json& frequency : c.list("frequencies", pairs)) {
    if (!frequency.is_number() || !(frequency.get<double>() >= 0 && frequency.get<double>() <= kMostNumber)) {
      fail(c.source(), ": frequencies must be numbers from 0 to 1e+30");
    }
    found.push_back(frequency.get<float>());
  }
  return found;
}

RopeSpec read_rope(const Fields& c, std::size_t pairs) {
  c.only({"frequencies", "scale", "reach", "dynamic", "long"});
  RopeSpec rope;
  rope.frequencies = read_frequencies(c, pairs);
  rope.scale = static_cast<float>(c.number("scale"));
  rope.reach = c.integer("reach", kMostPositions, 0);
  if (c.has("dynamic")) {
    const Fields dynamic = c.table("dynamic");
    dynamic.only({"theta", "factor", "original_positions"});
    if (pairs < 2) fail(dynamic.source(), " gives frequencies that aren't finite");  // it divides by their number - 1
    rope.dynamic = {dynamic.number("theta", kLeastNumber), dynamic.number("factor"),
                    dynamic.integer("original_positions", kMostPositions)};
  }
  if (c.has("long")) {
    if (rope.dynamic) fail(c.source(), ": it can't be both dynamic and long");
    const Fields other = c.table("long");
    other.only({"frequencies", "original_positions"});
    rope.other = {read_frequencies(other, pairs), other.integer("original_positions", kMostPositions)};
  }
  return rope;
}

// The rotary tables, all of as many pairs as the first, and which one each layer has.
void read_ropes(const Fields& c, ModelSpec& spec) {
  const Json& tables = c.value("ropes");
  const auto is_object = [](const Json& table) { return table.is_object(); };
  if (!tables.is_array() || tables.empty() || tables.size() > kMostRopes ||
      !std::all_of(tables.begin(), tables.end(), is_object)) {
    c.wrong("ropes", "a list of 1 to 64 objects");
  }
  const std::size_t most = spec.core.heads.head_dim / 2;
  const Json& first = member(tables[0], "frequencies");
  if (!first.is_array() || first.empty() || first.size() > most) {
    fail(c.source(), ": ropes: frequencies must be a list of 1 to ", most);
  }
  for (const Json& table : tables) {
    const std::string number = std::to_string(spec.ropes.size());
    spec.ropes.push_back(read_rope(Fields(table, c.source() + ": ropes " + number), first.size()));
  }
  spec.core.rotary_dim = 2 * first.size();
  spec.core.rotary_tables = spec.ropes.size();
  spec.core.rotary_interleaved = c.flag("rope_interleaved");
  for (const Json& table : c.list("rope_tables", spec.core.layers)) {
    if (!(table.is_number_integer() && table == -1) && !is_whole(table, 0, spec.ropes.size() - 1)) {
      c.wrong("rope_tables", "for each layer a number below " + std::to_string(spec.ropes.size()) + ", or -1 for none");
    }
    spec.core.rotary_table.push_back(table.get<int>());
  }
}

void read_factors(const Fields& c, ModelSpec& spec) {
  constexpr bool kOrZero = true;
  const std::map<Json, Activation> activations = {{"silu", Activation::kSilu},       {"gelu_tanh", Activation::kGelu},
                                                  {"clamped", Activation::kClamped}, {"gelu_erf", Activation::kGeluErf},
                                                  {"relu", Activation::kRelu},       {"relu2", Activation::kRelu2}};
  const auto activation = activations.find(c.value("activation"));
  if (activation == activations.end())
    c.wrong("activation", "silu or gelu_tanh or clamped or gelu_erf or relu or relu2");
  DecoderSpec& core = spec.core;
  core.activation = activation->second;
  core.activation_limit = c.factor("activation_limit", kOrZero);
  core.activation_alpha = c.factor("activation_alpha", kOrZero);
  for (const auto& [name, number] :
       {std::pair("activation_limit", core.activation_limit), {"activation_alpha", core.activation_alpha}}) {
    if ((core.activation == Activation::kClamped) != (number > 0)) {
      c.wrong(name, "above 0 where the activation is clamped, and 0 elsewhere");
    }
  }
  core.embedding_scale = c.factor("embedding_scale");
  core.residual_scale = c.factor("residual_scale");
  core.logit_scale = c.factor("logit_scale");
  core.attention_scale = c.factor("attention_scale", kOrZero);
  core.attention_softcap = c.factor("attention_softcap", kOrZero);
  core.logit_softcap = c.factor("logit_softcap", kOrZero);
  spec.query_growth = c.factor("query_growth", kOrZero);
  spec.query_positions = c.integer("query_positions", kMostPositions);
  spec.norm_offset = c.factor("norm_offset", kOrZero);
  spec.whole_norms = c.flag("whole_norms");
}

void read_experts(const Fields& c, DecoderSpec& core) {
  if (!c.has("experts")) return;
  const Fields e = c.table("experts");
  e.only({"count", "top_k", "intermediate", "normalise", "shared", "shared_intermediate", "layers"});
  core.experts = e.integer("count", 4096);
  core.top_k = e.integer("top_k", core.experts);
  core.expert_intermediate = e.integer("intermediate", 1 << 22);
  core.normalise = e.flag("normalise");
  core.shared = e.integer("shared", 256, 0);
  core.shared_intermediate = e.integer("shared_intermediate", 1 << 22, core.shared ? 1 : 0);
  for (const Json& sparse : e.list("layers", core.layers)) {
    if (!sparse.is_boolean()) e.wrong("layers", "true or false for each");
    core.sparse.push_back(sparse.get<bool>());
  }
  if (core.layers * (core.experts + core.shared) > kMostMlps) {
    fail(e.source(), ": ", core.layers, " layers of ", core.experts, " experts are more than ", kMostMlps, " MLPs");
  }
}

void read_sizes(const Fields& c, DecoderSpec& core) {
  core.vocab = c.integer("vocab_size", 1 << 24);
  core.hidden = c.integer("hidden", 1 << 20);
  core.layers = c.integer("layers", 4096);
  core.heads = {c.integer("heads", 1 << 14), c.integer("kv_heads", 1 << 14), c.integer("head_dim", 1 << 14)};
  core.intermediate = c.integer("intermediate", 1 << 22);
  core.norm_eps = static_cast<float>(c.number("norm_eps"));
  const HeadShape& heads = core.heads;
  if (heads.heads % heads.kv_heads || heads.head_dim % 2) {
    fail(c.source(), ": ", heads.heads, " heads can't share ", heads.kv_heads, " evenly, or head_dim ", heads.head_dim,
         " is odd");
  }
  for (const Json& window : c.list("windows", core.layers)) {
    if (!is_whole(window, 0, std::uint64_t{1} << 31)) c.wrong("windows", "tokens of each layer, 0 for all");
    core.windows.push_back(window.get<std::size_t>());
  }
}

// No answer of this program ends, but what lies in the file must be right.
void check_tokens(const Fields& c, std::size_t vocab) {
  const std::string wanted = "token ids below " + std::to_string(vocab);
  if (c.has("bos_token_id") && !is_whole(c.value("bos_token_id"), 0, vocab - 1)) c.wrong("bos_token_id", wanted);
  const Json& ids = c.value("eos_token_ids");
  if (!ids.is_array() || ids.size() > kMostTokenIds) c.wrong("eos_token_ids", "a list of at most 1024");
  for (const Json& id : ids) {
    if (!is_whole(id, 0, vocab - 1)) c.wrong("eos_token_ids", wanted);
  }
  c.flag("eos_assumed");
}

void check_word(const Fields& c, const char* name, const char* known) {
  if (c.value(name) != known) c.wrong(name, known);
}

}  // namespace

ModelSpec read_specification(const Json& content, const std::string& source, Weights allowed) {
  if (!content.is_object()) fail(source, " is missing, or no object");
  const Fields c(content, source);
  if (c.value("version") != 1) {
    fail(source, ": version ", quoted(c.value("version")), " is not known; this program reads 1");
  }
  c.only({"version",
          "vocab_size",
          "hidden",
          "layers",
          "heads",
          "kv_heads",
          "head_dim",
          "intermediate",
          "norm",
          "norm_eps",
          "norm_offset",
          "whole_norms",
          "activation",
          "activation_limit",
          "activation_alpha",
          "max_positions",
          "ropes",
          "rope_interleaved",
          "rope_tables",
          "embedding_scale",
          "attention_scale",
          "query_growth",
          "query_positions",
          "residual_scale",
          "logit_scale",
          "attention_softcap",
          "logit_softcap",
          "windows",
          "experts",
          "bos_token_id",
          "eos_token_ids",
          "eos_assumed",
          "weights",
          "activation_bits",
          "tensors"});
  check_word(c, "norm", "rms");
  ModelSpec spec;
  read_sizes(c, spec.core);
  read_experts(c, spec.core);
  spec.max_positions = c.integer("max_positions", kMostPositions);
  read_factors(c, spec);
  read_ropes(c, spec);
  check_tokens(c, spec.core.vocab);
  const std::map<Json, WeightFormat> formats = {{"float", WeightFormat::kFloat},
                                                {"int8", WeightFormat::kInt8},
                                                {"int8-packed", WeightFormat::kInt8Packed},
                                                {"int8-scaled", WeightFormat::kInt8Scaled}};
  const auto format = formats.find(c.value("weights"));
  if (format == formats.end()) c.wrong("weights", "float, int8, int8-packed or int8-scaled");
  spec.weights = format->second;
  if (allowed == Weights::kFloats && spec.is_integer()) c.wrong("weights", "float");
  const Fields bits = c.table("activation_bits");
  bits.only({"int8", "exact"});
  spec.int8_bits = read_bits(bits, "int8");
  spec.exact_bits = read_bits(bits, "exact");
  read_names(c, spec);
  check_names(spec, source);
  return spec;
}

}  // namespace cutset::runner
