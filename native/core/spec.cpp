#include "core/spec.h"

#include <cmath>
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
  for (std::size_t l = first; l < layer; ++l) count += is_recurrent(l) ? 1 : 0;
  return count;
}

float DecoderSpec::score_scale(std::size_t layer) const {
  if (attention_scale != 0.0f) return attention_scale;
  return 1.0f / std::sqrt(static_cast<float>(heads_of(layer).head_dim));
}

std::size_t DecoderSpec::qkv_outputs(std::size_t layer) const {
  const HeadShape& shape = heads_of(layer);
  const std::size_t kv = !has_own_kv(layer) ? 0 : has_equal_kv(layer) ? 1 : 2;
  return shape.q_size() * (gated_attention ? 2 : 1) + kv * shape.kv_size();
}

std::size_t DecoderSpec::width(std::size_t layer, int expert) const {
  if (expert < 0) return intermediates.empty() ? intermediate : intermediates[layer];
  if (static_cast<std::size_t>(expert) < experts) return expert_intermediate;
  return intermediates.empty() ? shared_intermediate : intermediates[layer];
}

std::size_t DecoderSpec::inputs(Site site, int layer, int expert) const {
  if (site == Site::kO) {
    const auto number = static_cast<std::size_t>(layer);
    return is_recurrent(number) ? recurrence.mixed(hidden) : heads_of(number).q_size();
  }
  return site == Site::kDown ? width(static_cast<std::size_t>(layer), expert) : hidden;
}

std::size_t DecoderSpec::outputs(Site site, int layer, int expert) const {
  const auto number = static_cast<std::size_t>(layer);
  switch (site) {
    case Site::kQkv:
      return is_recurrent(number) ? recurrence.inputs(hidden) : qkv_outputs(number);
    case Site::kGateUp:
      return 2 * width(number, expert);
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

std::size_t DecoderSpec::index(ToldProduct product, int layer) const {
  require(layer_inputs.width > 0, "layers are told nothing of a token");
  if (product == ToldProduct::kAll) return site_count();
  require(layer >= 0 && static_cast<std::size_t>(layer) < layers, "there is no such layer");
  return site_count() + 1 + 2 * static_cast<std::size_t>(layer) + (product == ToldProduct::kOut ? 1 : 0);
}

void DecoderSpec::check_layers() const {
  require(layer_heads.empty() || layer_heads.size() == layers, "heads must be given for each layer");
  require(intermediates.empty() || intermediates.size() == layers,
          "intermediates must have one element for each layer");
  require(kv_layers.empty() || kv_layers.size() == layers, "kv_layers must have one element for each layer");
  require(equal_kv.empty() || equal_kv.size() == layers, "equal_kv must have one element for each layer");
  require(rotary_dims.empty() || rotary_dims.size() == rotary_tables, "rotary_dims must have one element a table");
  require(rotary_dim % 2 == 0, "rotary_dim must be even");
  for (const std::size_t dim : rotary_dims) {
    require(dim && dim % 2 == 0 && dim <= rotary_dim, "rotary_dims must be even and at most rotary_dim");
  }
  for (std::size_t l = 0; l < layers; ++l) {
    const HeadShape& shape = heads_of(l);
    require(shape.kv_heads && shape.heads && shape.heads % shape.kv_heads == 0, "kv_heads must divide heads");
    require(shape.heads == heads.heads, "all layers have as many heads");
    require(shape.head_dim && shape.head_dim % 2 == 0, "head_dim must be even");
    const int table = table_of(l);
    const bool named = table >= 0 && table < static_cast<int>(rotary_tables);  // check() refuses the others
    require(!named || rotary_of(table) <= shape.head_dim, "rotary_dim must be at most head_dim");
    require(intermediates.empty() || intermediates[l], "intermediates must be at least 1");
    const std::size_t from = kv_layer(l);
    require(from <= l && kv_layer(from) == from && is_recurrent(from) == is_recurrent(l) &&
                heads_of(from).kv_heads == shape.kv_heads && heads_of(from).head_dim == shape.head_dim,
            "a layer uses keys and values of one below it, of its sizes, that has its own");
    require(l < first || l >= end() || from >= first, "a layer uses keys and values of another stage");
  }
}

void DecoderSpec::check() const {
  require(vocab && hidden && layers && intermediate, "sizes of a decoder must be at least 1");
  require(first < end() && end() <= layers, "a stage has some of the layers");
  require(recurrent.empty() || recurrent.size() == layers, "recurrent must have one element for each layer");
  require(activation != Activation::kClamped || (activation_limit > 0.0f && activation_alpha > 0.0f),
          "activation_limit and activation_alpha must be above 0");
  require(attention_scale >= 0.0f, "attention_scale must not be negative");
  require(rotary_table.empty() || rotary_table.size() == layers, "rotary_table must have one element for each layer");
  for (const int table : rotary_table) {
    require(table >= -1 && table < static_cast<int>(rotary_tables), "rotary_table names a table that isn't there");
  }
  require(windows.empty() || windows.size() == layers, "windows must have one element for each layer");
  require(sparse.empty() || sparse.size() == layers, "sparse must have one element for each layer");
  check_layers();
  if (recurrent_before(end())) {
    const Recurrence& r = recurrence;
    require(r.kind != Mixer::kAttention && r.taps >= 1, "recurrent layers must be of a kind, and have taps");
    require(r.kind != Mixer::kDelta || (r.key_heads && r.key_dim && r.value_dim && r.value_heads), "heads have sizes");
    require(r.kind != Mixer::kDelta || r.value_heads % r.key_heads == 0, "key_heads must divide value_heads");
  }
  bool any = false;
  for (const bool layer : sparse) any = any || layer;
  require(!any || (top_k >= 1 && top_k <= experts && expert_intermediate), "top_k must be between 1 and experts");
  require(!shared || shared_intermediate, "shared experts must have a width");
  require(!layer_inputs.width || layer_inputs.vocab >= vocab, "layers must be told of every token");
}

}  // namespace cutset
