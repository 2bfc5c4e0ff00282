// A decoder without its products: the specification, the float32 parameters of the glue, the cache of its layers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

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
  const float* gate_up_bias = nullptr;         // ([gate | up]) of a dense MLP
  const float* down_bias = nullptr;            // (hidden)
  const float* sinks = nullptr;                // (heads)
  const float* router = nullptr;               // (experts, hidden) of a sparse layer; copied
  const float* router_bias = nullptr;          // (experts)
  const float* expert_gate_up_bias = nullptr;  // (experts, [gate | up])
  const float* expert_down_bias = nullptr;     // (experts, hidden)
  const float* shared_gate = nullptr;          // (shared, hidden); copied
  RecurrentParameters recurrent;               // of a layer that is recurrent
};

struct Parameters {
  bool whole_norms = false;          // q_norm and k_norm are over all heads, (q_size) and (kv_size); else (head_dim)
  const float* embedding = nullptr;  // (vocab, hidden), or
  const PackedGrouped* embedding_codes = nullptr;
  const float* final_norm = nullptr;  // (hidden)
  std::vector<LayerParameters> layers;
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
  const PackedF32& router(std::size_t layer) const { return *routers_[layer]; }
  const PackedF32* shared_gate(std::size_t layer) const { return shared_gates_[layer].get(); }

 private:
  DecoderSpec spec_;
  Parameters parameters_;
  std::vector<std::unique_ptr<PackedF32>> routers_;  // of the sparse layers
  std::vector<std::unique_ptr<PackedF32>> shared_gates_;
};

// Keys and values of `blocks` blocks of `block_size` tokens in every layer of attention, and `states` states of
// sequences in the others.
class KvCache {
 public:
  // std::invalid_argument unless block_size is a multiple of 16; std::bad_alloc, std::length_error.
  KvCache(const DecoderSpec& spec, std::size_t blocks, std::size_t block_size, std::size_t states = 0);

  LayerCache layer(std::size_t layer);  // one of attention
  StateCache& states() { return states_; }
  const StateCache& states() const { return states_; }
  bool fits(const DecoderSpec& spec) const;
  std::size_t blocks() const { return blocks_; }
  std::size_t block_size() const { return block_size_; }
  std::size_t bytes() const { return memory_.bytes() + states_.bytes(); }

 private:
  std::vector<std::size_t> places_;  // of each layer, among those of attention
  std::size_t layers_, blocks_, block_size_;
  StateCache states_;
  HeadShape shape_;
  std::size_t key_floats_, layer_floats_, block_floats_;  // of one block: keys of a layer, a layer, all layers
  // [blocks][layers][keys, values], so that short contexts touch little of it: fresh memory is what a start waits for.
  Buffer memory_;
};

}  // namespace cutset
