#include "core/decoder.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "kernels/glue.h"
#include "kernels/table.h"

namespace cutset {

namespace {

void require(bool right, const char* message) {
  if (!right) throw std::invalid_argument(message);
}

}  // namespace

Decoder::Decoder(DecoderSpec spec, Parameters parameters, ThreadPool& pool)
    : spec_(std::move(spec)), parameters_(std::move(parameters)), routers_(spec_.layers), shared_gates_(spec_.layers) {
  spec_.check();
  if (!spec_.rotary_dim) spec_.rotary_dim = spec_.heads.head_dim;
  if (spec_.attention_scale == 0.0f) spec_.attention_scale = 1.0f / std::sqrt(static_cast<float>(spec_.heads.head_dim));
  require(parameters_.layers.size() == spec_.layers, "parameters must be given for each layer");
  const PackedGrouped* codes = parameters_.embedding_codes;
  require((parameters_.embedding || codes) && parameters_.final_norm, "a decoder needs an embedding and a final norm");
  require(!codes || (codes->outputs() == spec_.vocab && codes->depth() == spec_.hidden),
          "the embedding has another shape");
  for (std::size_t l = 0; l < spec_.layers; ++l) {
    const LayerParameters& layer = parameters_.layers[l];
    require((layer.attention_norm || layer.attention_output_norm) && (layer.mlp_norm || layer.mlp_output_norm),
            "a layer needs a norm before or after attention, and before or after its MLP");
    const RecurrentParameters& recurrent = layer.recurrent;
    require(!recurrent.conv == !spec_.is_recurrent(l), "a recurrent layer needs a convolution, and no other has one");
    require(spec_.mixer(l) != Mixer::kDelta || (recurrent.decay && recurrent.decay_bias && recurrent.delta_gain),
            "a layer of the delta rule needs decays and a gain");
    require(!layer.q_norm == !layer.k_norm, "a layer needs both q_norm and k_norm, or none");
    require(!layer.router == !spec_.is_sparse(l), "a sparse layer needs a router, and no other has one");
    require(!layer.shared_gate || (spec_.shared && layer.router), "only shared experts have gates");
    if (layer.shared_gate) {
      shared_gates_[l] = std::make_unique<PackedF32>(layer.shared_gate, spec_.shared, spec_.hidden, pool);
    }
    if (layer.router) routers_[l] = std::make_unique<PackedF32>(layer.router, spec_.experts, spec_.hidden, pool);
  }
}

void Decoder::embed(const std::int32_t* ids, std::size_t count, float* out) const {
  const PackedGrouped* codes = parameters_.embedding_codes;
  if (!codes) return kernels().glue.embedding(parameters_.embedding, ids, count, spec_.hidden, out);
  for (std::size_t i = 0; i < count; ++i) codes->weights(static_cast<std::size_t>(ids[i]), out + i * spec_.hidden);
}

KvCache::KvCache(const DecoderSpec& spec, std::size_t blocks, std::size_t block_size, std::size_t states)
    : layers_(0), blocks_(blocks), block_size_(block_size), states_(spec, states), shape_(spec.heads) {
  for (std::size_t l = 0; l < spec.layers; ++l) {
    places_.push_back(layers_);
    layers_ += spec.is_recurrent(l) ? 0 : 1;
  }
  require(blocks >= 1, "a cache needs at least one block");
  require(block_size >= 1 && block_size % kPackTokens == 0, "block_size must be a multiple of 16");
  key_floats_ = LayerCache::key_floats(shape_, block_size);
  layer_floats_ = key_floats_ + LayerCache::value_floats(shape_, block_size);
  block_floats_ = checked_product(layers_, layer_floats_);
  // An odd number of pages, so that the blocks of one head don't fall into the same sets of the cache.
  constexpr std::size_t kPageFloats = 4096 / sizeof(float);
  if (block_floats_ > 32 * kPageFloats)
    block_floats_ = ((block_floats_ + kPageFloats - 1) / kPageFloats | 1) * kPageFloats;
  memory_ = Buffer(std::max(checked_product(blocks, checked_product(block_floats_, sizeof(float))), sizeof(float)));
}

LayerCache KvCache::layer(std::size_t layer) {
  float* keys = memory_.as<float>() + places_[layer] * layer_floats_;
  return {keys, keys + key_floats_, block_size_, block_floats_, block_floats_};
}

bool KvCache::fits(const DecoderSpec& spec) const {
  if (!states_.fits(spec) || places_.size() != spec.layers) return false;
  for (std::size_t l = 0, place = 0; l < spec.layers; ++l) {
    if (places_[l] != place) return false;
    place += spec.is_recurrent(l) ? 0 : 1;
  }
  return shape_.kv_heads == spec.heads.kv_heads && shape_.head_dim == spec.heads.head_dim;
}

}  // namespace cutset
