#include "core/spec.h"

#include <stdexcept>

namespace cutset {

namespace {

void require(bool right, const char* message) {
  if (!right) throw std::invalid_argument(message);
}

}  // namespace

std::size_t Recurrence::convolved(std::size_t hidden) const {
  return kind == Mixer::kConv ? hidden : 2 * key_heads * key_dim + mixed(hidden);
}

std::size_t Recurrence::inputs(std::size_t hidden) const {
  return kind == Mixer::kConv ? 3 * hidden : convolved(hidden) + mixed(hidden) + 2 * value_heads;
}

std::size_t Recurrence::mixed(std::size_t hidden) const {
  return kind == Mixer::kConv ? hidden : value_heads * value_dim;
}

std::size_t Recurrence::state(std::size_t hidden) const {
  return (taps - 1) * convolved(hidden) + (kind == Mixer::kConv ? 0 : key_dim * mixed(hidden));
}

std::size_t DecoderSpec::recurrent_before(std::size_t layer) const {
  std::size_t count = 0;
  for (std::size_t l = 0; l < layer; ++l) count += is_recurrent(l) ? 1 : 0;
  return count;
}

std::size_t DecoderSpec::width(int expert) const {
  if (expert < 0) return intermediate;
  return static_cast<std::size_t>(expert) < experts ? expert_intermediate : shared_intermediate;
}

std::size_t DecoderSpec::inputs(Site site, int layer, int expert) const {
  if (site == Site::kO) {
    return is_recurrent(static_cast<std::size_t>(layer)) ? recurrence.mixed(hidden) : heads.q_size();
  }
  return site == Site::kDown ? width(expert) : hidden;
}

std::size_t DecoderSpec::outputs(Site site, int layer, int expert) const {
  switch (site) {
    case Site::kQkv:
      return is_recurrent(static_cast<std::size_t>(layer)) ? recurrence.inputs(hidden) : qkv_outputs();
    case Site::kGateUp:
      return 2 * width(expert);
    case Site::kLmHead:
      return vocab;
    default:
      return hidden;
  }
}

std::size_t DecoderSpec::index(Site site, int layer, int expert) const {
  if (site == Site::kLmHead) return site_count() - 1;
  require(layer >= 0 && static_cast<std::size_t>(layer) < layers, "there is no such layer");
  const std::size_t start = static_cast<std::size_t>(layer) * (2 + 2 * (1 + experts + shared));
  if (site == Site::kQkv) return start;
  if (site == Site::kO) return start + 1;
  const bool mixture = is_sparse(static_cast<std::size_t>(layer));
  const int end = static_cast<int>(experts + shared);
  require(mixture ? expert >= 0 && expert < end : expert == -1, "this layer has no such expert");
  return start + 2 + 2 * static_cast<std::size_t>(expert + 1) + (site == Site::kDown ? 1 : 0);
}

void DecoderSpec::check() const {
  require(vocab && hidden && layers && intermediate, "sizes of a decoder must be at least 1");
  require(heads.kv_heads && heads.heads && heads.heads % heads.kv_heads == 0, "kv_heads must divide heads");
  require(heads.head_dim && heads.head_dim % 2 == 0, "head_dim must be even");
  require(rotary_dim % 2 == 0 && rotary_dim <= heads.head_dim, "rotary_dim must be even and at most head_dim");
  require(activation != Activation::kClamped || (activation_limit > 0.0f && activation_alpha > 0.0f),
          "activation_limit and activation_alpha must be above 0");
  require(attention_scale >= 0.0f, "attention_scale must not be negative");
  require(rotary_table.empty() || rotary_table.size() == layers, "rotary_table must have one element for each layer");
  for (const int table : rotary_table) {
    require(table >= -1 && table < static_cast<int>(rotary_tables), "rotary_table names a table that isn't there");
  }
  require(windows.empty() || windows.size() == layers, "windows must have one element for each layer");
  require(sparse.empty() || sparse.size() == layers, "sparse must have one element for each layer");
  require(recurrent.empty() || recurrent.size() == layers, "recurrent must have one element for each layer");
  if (recurrent_before(recurrent.empty() ? 0 : layers)) {
    const Recurrence& r = recurrence;
    require(r.kind != Mixer::kAttention && r.taps >= 1, "recurrent layers must be of a kind, and have taps");
    require(r.kind != Mixer::kDelta || (r.key_heads && r.key_dim && r.value_dim && r.value_heads), "heads have sizes");
    require(r.kind != Mixer::kDelta || r.value_heads % r.key_heads == 0, "key_heads must divide value_heads");
  }
  bool any = false;
  for (const bool layer : sparse) any = any || layer;
  require(!any || (top_k >= 1 && top_k <= experts && expert_intermediate), "top_k must be between 1 and experts");
  require(!shared || shared_intermediate, "shared experts must have a width");
}

}  // namespace cutset
