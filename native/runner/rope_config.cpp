#include <algorithm>
#include <cmath>

#include "runner/error.h"
#include "runner/rope.h"

namespace cutset::runner {

namespace {

constexpr const char* kOriginal = "original_max_position_embeddings";

double yarn_attention_factor(const Fields& scaling, double factor) {
  const auto mscale = [factor](double weight) { return factor > 1 ? 0.1 * weight * std::log(factor) + 1.0 : 1.0; };
  if (scaling.has("attention_factor")) return scaling.number("attention_factor");
  if (truthy(scaling.value("mscale")) && truthy(scaling.value("mscale_all_dim"))) {
    return mscale(scaling.number("mscale")) / mscale(scaling.number("mscale_all_dim"));
  }
  return mscale(1.0);
}

void read_llama3(const Fields& scaling, RopeSpec& rope) {
  rope.low_freq_factor = scaling.number("low_freq_factor");
  rope.high_freq_factor = scaling.number("high_freq_factor");
  if (rope.low_freq_factor >= rope.high_freq_factor) {
    fail(scaling.source(), ": low_freq_factor must be below high_freq_factor");
  }
  rope.factor = scaling.number("factor");
}

void read_yarn(const Fields& scaling, std::size_t max_positions, RopeSpec& rope) {
  rope.factor =
      scaling.number("factor", static_cast<double>(max_positions) / static_cast<double>(rope.original_positions));
  rope.beta_fast = scaling.number("beta_fast", 32.0);
  rope.beta_slow = scaling.number("beta_slow", 1.0);
  rope.truncate = scaling.flag("truncate", !scaling.names("truncate"));  // null is false there
  rope.attention_factor = yarn_attention_factor(scaling, rope.factor);
}

}  // namespace

std::size_t longest(const RopeSpec& rope, std::size_t max_positions) {
  constexpr std::size_t kMost = std::size_t{1} << 27;
  if (rope.kind == "dynamic") return kMost;
  if ((rope.kind != "linear" && rope.kind != "yarn") || rope.half_ramp) return max_positions;
  const double reach = rope.factor * static_cast<double>(rope.original_positions);
  return std::max(max_positions, static_cast<std::size_t>(std::min(reach, static_cast<double>(kMost))));
}

RopeSpec read_rope(const Fields& config, double theta, std::size_t max_positions) {
  // Which of two keys counts is said in cutset.models.rope_config.
  static const Json none = Json::object();
  std::optional<Fields> scaling =
      config.table(truthy(config.value("rope_scaling")) ? "rope_scaling" : "rope_parameters");
  if (!scaling) scaling = Fields(none, config.source());
  RopeSpec rope;
  rope.theta = scaling->number("rope_theta", config.number("rope_theta", theta));
  for (const char* kind : {"full_attention", "sliding_attention"}) {
    if (scaling->names(kind)) fail(scaling->source(), " differs by type of layer, which is not supported");
  }
  if (scaling->number("partial_rotary_factor", config.number("partial_rotary_factor", 1.0)) != 1.0) {
    fail(config.source(), ": a partial_rotary_factor other than 1 is not supported");
  }
  rope.kind = scaling->names("rope_type") ? scaling->word("rope_type", "") : scaling->word("type", "default");
  if (rope.kind == "default") return rope;
  rope.original_positions = max_positions;
  if (rope.kind == "linear" || rope.kind == "dynamic") {
    rope.factor = scaling->number("factor");
    return rope;
  }
  rope.original_positions = config.integer(kOriginal, scaling->integer(kOriginal, max_positions));
  if (rope.kind == "llama3") {
    read_llama3(*scaling, rope);
  } else if (rope.kind == "yarn") {
    read_yarn(*scaling, max_positions, rope);
  } else {
    const Json& named = scaling->value(scaling->names("rope_type") ? "rope_type" : "type");
    fail(config.source(), ": unknown rope scaling ", quoted(named), "; known are linear, dynamic, llama3, yarn");
  }
  return rope;
}

}  // namespace cutset::runner
