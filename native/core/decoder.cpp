#include "core/decoder.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <tuple>
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
  require(parameters_.layers.size() == spec_.layers, "parameters must be given for each layer");
  const PackedGrouped* codes = parameters_.embedding_codes;
  require(spec_.has_embedding() == (parameters_.embedding || codes) && spec_.has_head() == !!parameters_.final_norm,
          "a decoder needs an embedding and a final norm, and so do its first and its last stage alone");
  require(!codes || (codes->outputs() == spec_.vocab && codes->depth() == spec_.hidden),
          "the embedding has another shape");
  take_layer_inputs(pool);
  for (std::size_t l = spec_.first; l < spec_.end(); ++l) {
    const LayerParameters& layer = parameters_.layers[l];
    require((layer.attention_norm || layer.attention_output_norm) && (layer.mlp_norm || layer.mlp_output_norm),
            "a layer needs a norm before or after attention, and before or after its MLP");
    const RecurrentParameters& recurrent = layer.recurrent;
    require(!recurrent.conv == !spec_.is_recurrent(l), "a recurrent layer needs a convolution, and no other has one");
    require(spec_.mixer(l) != Mixer::kDelta || (recurrent.decay && recurrent.decay_bias && recurrent.delta_gain),
            "a layer of the delta rule needs decays and a gain");
    require(!spec_.has_own_kv(l) || !layer.q_norm == !layer.k_norm, "a layer needs both q_norm and k_norm, or none");
    require(spec_.has_own_kv(l) || (!layer.k_norm && !layer.v_norm), "a layer that uses another's keys has no norms");
    require(!layer.router == !spec_.is_sparse(l), "a sparse layer needs a router, and no other has one");
    const bool normed = layer.router_norm && layer.expert_norm && layer.expert_output_norm && layer.expert_scale;
    require(normed || (!layer.router_norm && !layer.expert_norm && !layer.expert_output_norm && !layer.expert_scale),
            "experts need all norms of their own, or none");
    require(!layer.shared_output_norm == !(normed && spec_.shared), "shared experts need their norm, or none");
    require(!normed || layer.router, "only experts have norms of their own");
    require(!layer.shared_gate || (spec_.shared && layer.router), "only shared experts have gates");
    if (layer.shared_gate) {
      shared_gates_[l] = std::make_unique<PackedF32>(layer.shared_gate, spec_.shared, spec_.hidden, pool);
    }
    if (layer.router) routers_[l] = std::make_unique<PackedF32>(layer.router, spec_.experts, spec_.hidden, pool);
  }
}

void Decoder::embed(const std::int32_t* ids, std::size_t count, float* out) const {
  const PackedGrouped* codes = parameters_.embedding_codes;
  if (!codes) return look_up(parameters_.embedding, ids, count, spec_.hidden, out);
  for (std::size_t i = 0; i < count; ++i) codes->weights(static_cast<std::size_t>(ids[i]), out + i * spec_.hidden);
}

void Decoder::embed_obliviously(ThreadPool& pool, const std::int32_t* ids, std::size_t count, float* out) const {
  const PackedGrouped* codes = parameters_.embedding_codes;
  if (!codes) return scan_table(pool, parameters_.embedding, spec_.vocab, ids, count, spec_.hidden, out);
  const std::size_t bytes = spec_.hidden * sizeof(float);
  std::memset(out, 0, count * bytes);
  std::vector<float> entry(spec_.hidden);
  for (std::size_t number = 0; number < spec_.vocab; ++number) {
    codes->weights(number, entry.data());
    kernels().glue.scan({static_cast<const std::uint8_t*>(static_cast<const void*>(entry.data())), 1, bytes, bytes,
                         number, ids, count, static_cast<std::uint8_t*>(static_cast<void*>(out)), bytes});
  }
}

void Decoder::take_layer_inputs(ThreadPool& pool) {
  const std::size_t width = spec_.layer_inputs.width, all = checked_product(spec_.stage_layers(), width);
  const Parameters& p = parameters_;
  require(!p.layer_product == !width && !p.layer_embedding == !width && !p.layer_product_norm == !width,
          "layers that are told of tokens need an embedding, a product and its norm, and others have none");
  if (width) layer_product_ = std::make_unique<PackedF32>(p.layer_product, all, spec_.hidden, pool);
  layer_gates_.resize(spec_.layers);
  layer_outs_.resize(spec_.layers);
  for (std::size_t l = spec_.first; l < spec_.end(); ++l) {
    const LayerParameters& layer = p.layers[l];
    require(!layer.layer_gate == !width && !layer.layer_out == !width && !layer.layer_output_norm == !width,
            "a layer that is told of tokens needs a gate, a product and its norm, and no other has them");
    if (!width) continue;
    layer_gates_[l] = std::make_unique<PackedF32>(layer.layer_gate, width, spec_.hidden, pool);
    layer_outs_[l] = std::make_unique<PackedF32>(layer.layer_out, spec_.hidden, width, pool);
  }
}

std::pair<std::vector<KvCache::Place>, std::size_t> KvCache::places_of(const DecoderSpec& spec, std::size_t block_size,
                                                                       CacheType type) {
  std::vector<Place> places;
  std::size_t end = 0;
  for (std::size_t l = 0; l < spec.layers; ++l) {
    if (spec.is_recurrent(l) || l < spec.first || l >= spec.end()) {
      places.push_back({0, 0});
    } else if (!spec.has_own_kv(l)) {
      places.push_back(places[spec.kv_layer(l)]);
    } else {
      const std::size_t values = end + LayerCache::key_floats(spec.heads_of(l), block_size, type);
      places.push_back({end, values});
      end = values + LayerCache::value_floats(spec.heads_of(l), block_size, type);
    }
  }
  return {std::move(places), end};
}

KvCache::KvCache(const DecoderSpec& spec, std::size_t blocks, std::size_t block_size, std::size_t states,
                 CacheType type)
    : blocks_(blocks), block_size_(block_size), states_(spec, states), type_(type) {
  require(blocks >= 1, "a cache needs at least one block");
  require(block_size >= 1 && block_size % kPackTokens == 0, "block_size must be a multiple of 16");
  std::tie(places_, block_floats_) = places_of(spec, block_size, type);
  own_floats_ = block_floats_;
  for (std::size_t l = 0; l < spec.layers; ++l) shapes_.push_back(spec.heads_of(l));
  // An odd number of pages, so that the blocks of one head don't fall into the same sets of the cache.
  constexpr std::size_t kPageFloats = 4096 / sizeof(float);
  if (block_floats_ > 32 * kPageFloats)
    block_floats_ = ((block_floats_ + kPageFloats - 1) / kPageFloats | 1) * kPageFloats;
  memory_ = Buffer(std::max(checked_product(blocks, checked_product(block_floats_, sizeof(float))), sizeof(float)));
}

LayerCache KvCache::layer(std::size_t layer) {
  float* block = memory_.as<float>();
  return {block + places_[layer].keys, block + places_[layer].values, block_size_, block_floats_, block_floats_, type_};
}

bool KvCache::fits(const DecoderSpec& spec) const {
  if (!states_.fits(spec) || places_.size() != spec.layers) return false;
  for (std::size_t l = 0; l < spec.layers; ++l) {
    const HeadShape& shape = spec.heads_of(l);
    if (shape.kv_heads != shapes_[l].kv_heads || shape.head_dim != shapes_[l].head_dim) return false;
  }
  return places_of(spec, block_size_, type_).first == places_;
}

}  // namespace cutset
