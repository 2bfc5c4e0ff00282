// What the core must know of a decoder; the C++ side of cutset.models.spec.DecoderSpec, which documents the fields.
#pragma once

#include <cstddef>
#include <vector>

#include "core/attention.h"

namespace cutset {

// The products of a decoder, where a model can be cut by operator.
enum class Site { kQkv, kO, kGateUp, kDown, kLmHead };

// Of the gate in an MLP.
enum class Activation { kSilu, kGelu, kClamped, kGeluErf, kRelu, kRelu2 };

// What a layer has instead of attention; see cutset.models.spec.ConvSpec and DeltaSpec.
enum class Mixer { kAttention, kConv, kDelta };

struct Recurrence {
  Mixer kind = Mixer::kAttention;  // of the layers that aren't attention; kAttention: there are none
  std::size_t taps = 0;            // of the convolution
  std::size_t key_heads = 0;       // kDelta, and the following
  std::size_t value_heads = 0;
  std::size_t key_dim = 0;
  std::size_t value_dim = 0;

  // `hidden`: of the decoder, which kConv has as many channels as.
  std::size_t convolved(std::size_t hidden) const;
  std::size_t inputs(std::size_t hidden) const;  // columns of what goes in
  std::size_t mixed(std::size_t hidden) const;   // columns of what it gives
  std::size_t state(std::size_t hidden) const;   // floats of one sequence in one layer
};

// What layers are told of a token; see cutset.models.spec.LayerInputSpec.
struct LayerInputs {
  std::size_t vocab = 0;
  std::size_t width = 0;  // in each layer; 0: they aren't told anything
  float embedding_scale = 1.0f;
  float product_scale = 1.0f;
  float scale = 1.0f;
};

// Products of what layers are told, which stay with the glue: that of the embedding for all layers, and each layer's.
enum class ToldProduct { kAll, kGate, kOut };

struct DecoderSpec {
  std::size_t vocab = 0;
  std::size_t hidden = 0;
  std::size_t layers = 0;
  HeadShape heads;
  std::size_t intermediate = 0;
  float norm_eps = 0.0f;
  std::vector<std::size_t> windows;  // per layer; 0: all tokens; empty: 0 everywhere

  // Mixture of experts; expert number experts + s is the shared expert s, -1 a dense MLP.
  std::vector<bool> sparse;  // per layer: its MLP is a mixture; empty: none is
  std::size_t experts = 0;
  std::size_t top_k = 0;
  bool normalise = false;
  std::size_t expert_intermediate = 0;
  std::size_t shared = 0;
  std::size_t shared_intermediate = 0;

  std::size_t window(std::size_t layer) const { return windows.empty() ? 0 : windows[layer]; }
  Activation activation = Activation::kSilu;
  float activation_limit = 0.0f;  // kClamped
  float activation_alpha = 0.0f;  // kClamped
  std::size_t rotary_dim = 0;     // elements of a head that are rotated, even; 0: all
  bool rotary_interleaved = false;
  std::size_t rotary_tables = 1;
  std::vector<int> rotary_table;   // per layer: which of the tables; -1: none; empty: the first everywhere
  float attention_scale = 0.0f;    // of the scores; 0: 1 / sqrt(head_dim)
  float attention_softcap = 0.0f;  // 0: none
  float embedding_scale = 1.0f;
  float residual_scale = 1.0f;  // of what a sublayer adds
  float logit_scale = 1.0f;
  float logit_softcap = 0.0f;  // 0: none

  Recurrence recurrence;
  std::vector<bool> recurrent;   // per layer: it has that instead of attention; empty: none has
  bool gated_attention = false;  // q is [q | gate] in each head

  // Per layer, where layers differ; empty where they don't.
  std::vector<HeadShape> layer_heads;
  std::vector<std::size_t> intermediates;  // of MLPs that every row passes
  std::vector<std::size_t> kv_layers;      // the one whose keys and values a layer uses, its own number or a lower one
  std::vector<bool> equal_kv;              // v is k as it is before its norm
  std::vector<std::size_t> rotary_dims;    // per table, at most rotary_dim, by which their rows are apart
  LayerInputs layer_inputs;
  float router_scale = 1.0f;  // of the router's product

  // A stage runs the layers first .. end() alone, under their numbers in the whole decoder. The first one has the
  // embedding, the last one the final norm and the head.
  std::size_t first = 0;
  std::size_t stop = 0;  // 0: all layers from `first` on

  std::size_t end() const { return stop ? stop : layers; }
  std::size_t stage_layers() const { return end() - first; }
  bool has_head() const { return end() == layers; }
  // The embedding: of what comes in, or of what layers are told of tokens.
  bool has_embedding() const { return first == 0 || layer_inputs.width != 0; }
  const HeadShape& heads_of(std::size_t layer) const { return layer_heads.empty() ? heads : layer_heads[layer]; }
  std::size_t kv_layer(std::size_t layer) const { return kv_layers.empty() ? layer : kv_layers[layer]; }
  bool has_own_kv(std::size_t layer) const { return kv_layer(layer) == layer; }
  bool has_equal_kv(std::size_t layer) const { return !equal_kv.empty() && equal_kv[layer]; }
  std::size_t rotary_of(int table) const {
    return rotary_dims.empty() ? rotary_dim : rotary_dims[static_cast<std::size_t>(table)];
  }
  float score_scale(std::size_t layer) const;
  // The product gives something else than [q | k | v].
  bool is_parted(std::size_t layer) const { return gated_attention || !has_own_kv(layer) || has_equal_kv(layer); }
  std::size_t qkv_outputs(std::size_t layer) const;
  bool is_recurrent(std::size_t layer) const { return !recurrent.empty() && recurrent[layer]; }
  Mixer mixer(std::size_t layer) const { return is_recurrent(layer) ? recurrence.kind : Mixer::kAttention; }
  std::size_t recurrent_before(std::size_t layer) const;  // recurrent layers of the stage below it
  int table_of(std::size_t layer) const { return rotary_table.empty() ? 0 : rotary_table[layer]; }
  bool is_sparse(std::size_t layer) const { return !sparse.empty() && sparse[layer]; }
  std::size_t width(std::size_t layer, int expert) const;      // of an MLP
  std::size_t inputs(Site site, int layer, int expert) const;  // layer: -1 for kLmHead
  std::size_t outputs(Site site, int layer, int expert) const;

  // A number below site_count() for every site of every layer; std::invalid_argument for one that isn't there.
  std::size_t index(Site site, int layer, int expert) const;
  std::size_t site_count() const { return layers * (2 + 2 * (1 + experts + shared)) + 1; }
  // The numbers after those of the sites, below product_count(); std::invalid_argument where there are no such
  // products.
  std::size_t index(ToldProduct product, int layer) const;
  std::size_t product_count() const { return site_count() + (layer_inputs.width ? 1 + 2 * layers : 0); }

  // std::invalid_argument if the sizes contradict each other.
  void check() const;

 private:
  void check_layers() const;
};

}  // namespace cutset
