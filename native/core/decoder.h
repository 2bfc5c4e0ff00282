// A decoder, or a stage of one, without its products: the specification, the parameters of the glue, the cache of its
// layers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "core/floats.h"
#include "core/grouped.h"
#include "core/linear.h"
#include "core/memory.h"
#include "core/pool.h"
#include "core/recurrent.h"
#include "core/spec.h"

namespace cutset {

// nullptr where the decoder has no such parameter.
struct LayerParameters {
  const float* attention_norm = nullptr;         // (hidden)
  const float* attention_output_norm = nullptr;  // (hidden), of what attention adds
  const float* mlp_norm = nullptr;               // (hidden)
  const float* mlp_output_norm = nullptr;        // (hidden), of what the MLP adds
  const float* qkv_bias = nullptr;               // ([q | k | v])
  const float* o_bias = nullptr;                 // (hidden)
  const float* q_norm = nullptr;                 // (head_dim) or (q_size), both or none
  const float* k_norm = nullptr;
  const float* v_norm = nullptr;               // (head_dim)
  const float* gate_up_bias = nullptr;         // ([gate | up]) of a dense MLP
  const float* down_bias = nullptr;            // (hidden)
  const float* sinks = nullptr;                // (heads)
  FloatView router;                            // (experts, hidden) of a sparse layer; copied
  const float* router_norm = nullptr;          // (hidden), and the following: of experts with norms of their own
  const float* expert_norm = nullptr;          // (hidden)
  const float* expert_output_norm = nullptr;   // (hidden)
  const float* shared_output_norm = nullptr;   // (hidden)
  const float* expert_scale = nullptr;         // (experts)
  const float* router_bias = nullptr;          // (experts)
  const float* expert_gate_up_bias = nullptr;  // (experts, [gate | up])
  const float* expert_down_bias = nullptr;     // (experts, hidden)
  FloatView shared_gate;                       // (shared, hidden); copied
  FloatView layer_gate;                        // (width, hidden), and the next: of what layers are told of; copied
  FloatView layer_out;                         // (hidden, width); copied
  const float* layer_output_norm = nullptr;    // (hidden)
  const float* layer_scale = nullptr;          // (1), of what leaves the layer
  RecurrentParameters recurrent;               // of a layer that is recurrent
};

struct Parameters {
  bool whole_norms = false;  // q_norm and k_norm are over all heads, (q_size) and (kv_size); else (head_dim)
  FloatView embedding;       // (vocab, hidden), or
  const PackedGrouped* embedding_codes = nullptr;
  const float* final_norm = nullptr;          // (hidden)
  FloatView layer_embedding;                  // (layer_inputs.vocab, stage_layers * width), and the following: what
  FloatView layer_product;                    // (stage_layers * width, hidden)  they are told of a token; it is copied
  const float* layer_product_norm = nullptr;  // (width)
  std::vector<LayerParameters> layers;        // of all layers; those of other stages are empty
};

// Immutable; any number of steps may run over it at once. What the parameters point to must outlive it.
class Decoder {
 public:
  // std::invalid_argument if the sizes contradict each other or a parameter is missing.
  Decoder(DecoderSpec spec, Parameters parameters, ThreadPool& pool);

  const DecoderSpec& spec() const { return spec_; }
  const Parameters& parameters() const { return parameters_; }
  // The rows of the embedding for `count` tokens, (count, hidden).
  void embed(const std::int32_t* ids, std::size_t count, float* out) const;
  // The same, with all of the table read for each: no address depends on the ids.
  void embed_obliviously(ThreadPool& pool, const std::int32_t* ids, std::size_t count, float* out) const;
  // Steps look tokens up in that way. To be set before there are any.
  bool data_oblivious() const { return data_oblivious_; }
  void set_data_oblivious(bool wanted) { data_oblivious_ = wanted; }
  const PackedF32& router(std::size_t layer) const { return *routers_[layer]; }
  const PackedF32* shared_gate(std::size_t layer) const { return shared_gates_[layer].get(); }
  const PackedF32& layer_product() const { return *layer_product_; }  // and the following: of layer_inputs
  const PackedF32& layer_gate(std::size_t layer) const { return *layer_gates_[layer]; }
  const PackedF32& layer_out(std::size_t layer) const { return *layer_outs_[layer]; }

 private:
  void take_layer_inputs(ThreadPool& pool);

  DecoderSpec spec_;
  Parameters parameters_;
  bool data_oblivious_ = false;
  std::vector<std::unique_ptr<PackedF32>> routers_;  // of the sparse layers
  std::vector<std::unique_ptr<PackedF32>> shared_gates_;
  std::unique_ptr<PackedF32> layer_product_;
  std::vector<std::unique_ptr<PackedF32>> layer_gates_, layer_outs_;
};

// Keys and values of `blocks` blocks of `block_size` tokens in every layer of attention of a stage, and `states` states
// of sequences in the others.
class KvCache {
 public:
  // std::invalid_argument unless block_size is a multiple of 16; std::bad_alloc, std::length_error.
  KvCache(const DecoderSpec& spec, std::size_t blocks, std::size_t block_size, std::size_t states = 0,
          CacheType type = CacheType::kFloat32);

  LayerCache layer(std::size_t layer);  // one of attention
  StateCache& states() { return states_; }
  const StateCache& states() const { return states_; }
  bool fits(const DecoderSpec& spec) const;
  std::size_t blocks() const { return blocks_; }
  std::size_t block_size() const { return block_size_; }
  std::size_t bytes() const { return memory_.bytes() + states_.bytes(); }
  // Keys and values of all layers in a block, block_bytes() of them, which is all that its tokens leave here.
  std::uint8_t* block(std::size_t number) { return memory_.as<std::uint8_t>() + number * stride_bytes(); }
  std::size_t block_bytes() const { return own_floats_ * sizeof(float); }
  std::size_t stride_bytes() const { return block_floats_ * sizeof(float); }

 private:
  // Where a layer's keys lie in a block, and behind them its values.
  struct Place {
    std::size_t keys, values;
    bool operator==(const Place& other) const { return keys == other.keys && values == other.values; }
  };
  // Of each layer, in floats; and of a whole block.
  static std::pair<std::vector<Place>, std::size_t> places_of(const DecoderSpec& spec, std::size_t block_size,
                                                              CacheType type);

  std::size_t blocks_, block_size_;
  StateCache states_;
  CacheType type_;
  std::vector<HeadShape> shapes_;  // of each layer
  std::vector<Place> places_;
  std::size_t block_floats_ = 0, own_floats_ = 0;  // from a block to the next; of them keys and values
  // [blocks][layers with their own][keys, values], so that short contexts touch little of it: fresh memory is what a
  // start waits for.
  Buffer memory_;
};

}  // namespace cutset
