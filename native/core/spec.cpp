#include "core/spec.h"

#include <stdexcept>

namespace cutset {

namespace {

void require(bool right, const char* message) {
  if (!right) throw std::invalid_argument(message);
}

}  // namespace

std::size_t DecoderSpec::width(int expert) const {
  if (expert < 0) return intermediate;
  return static_cast<std::size_t>(expert) < experts ? expert_intermediate : shared_intermediate;
}

std::size_t DecoderSpec::inputs(Site site, int expert) const {
  if (site == Site::kO) return heads.q_size();
  return site == Site::kDown ? width(expert) : hidden;
}

std::size_t DecoderSpec::outputs(Site site, int expert) const {
  switch (site) {
    case Site::kQkv:
      return heads.qkv_size();
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
  bool any = false;
  for (const bool layer : sparse) any = any || layer;
  require(!any || (top_k >= 1 && top_k <= experts && expert_intermediate), "top_k must be between 1 and experts");
  require(!shared || shared_intermediate, "shared experts must have a width");
}

}  // namespace cutset
