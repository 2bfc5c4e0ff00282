// One step of a decoder, or of a stage of one, from site to site.
//
// A step stops at each product and says what it waits for. A local run answers all of them in one call; a split run
// sends them away. Rows whose logits nobody wants leave the last layer after their keys and values are stored. Stages
// hand on the residual stream of all rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "core/adapter.h"
#include "core/addition.h"
#include "core/decoder.h"
#include "core/linears.h"
#include "core/rows.h"

namespace cutset {

struct Batch {
  Rows rows;
  const std::int32_t* token_ids = nullptr;  // (rows)
  const float* cos = nullptr;               // (rotary_tables, rows, rotary_dim / 2)
  const float* sin = nullptr;
  const float* hidden = nullptr;             // (rows, hidden) what the stage before gave; the first stage has none
  const float* query_scales = nullptr;       // (rows) factors of q, or nullptr
  const std::int32_t* logit_rows = nullptr;  // (wanted)
  std::size_t wanted = 0;
  bool head = true;                      // false: the wanted rows end after the final norm
  States states;                         // of decoders that have such
  std::vector<const Adapter*> adapters;  // (sequences), nullptr for none; empty: none at all
};

// A product that a step waits for.
struct Product {
  Site site;
  int layer;   // -1 for lm_head
  int expert;  // -1 outside of mixtures of experts
  const float* x;
  std::size_t rows;
  std::size_t inputs;
  float* y;  // where the product goes
  std::size_t outputs;
  std::shared_ptr<const void> x_memory, y_memory;  // keep x and y readable, even when the step has gone on
};

// What an operator gave, under the names of the reference decoder; expert is -1 where there is none.
struct Traced {
  const char* name;
  int layer;
  int expert;
  const float* data;  // (rows, columns), rows `stride` floats apart
  std::size_t rows;
  std::size_t columns;
  std::size_t stride;
};
using Trace = std::function<void(const Traced&)>;

// Room for floats that grows and stays. Whoever shares its memory keeps what it had before it grew.
class Floats {
 public:
  float* take(std::size_t rows, std::size_t columns);
  float* data() const { return memory_->as<float>(); }
  const std::shared_ptr<Buffer>& memory() const { return memory_; }

 private:
  std::shared_ptr<Buffer> memory_ = std::make_shared<Buffer>();
};

class Step {
 public:
  // Steps that run at once need disjoint blocks of a cache. Any number of batches may run one after another.
  Step(const Decoder& decoder, KvCache& cache, ThreadPool& pool, Trace trace = {});

  // Runs to the first product. std::invalid_argument for a batch that contradicts itself, the decoder or the cache.
  // What the batch points to must stay until the step is done.
  void begin(const Batch& batch);

  // nullptr when the step is done.
  const Product* waiting() const { return done_ ? nullptr : &product_; }

  // Goes on to the next product; that of waiting() lies in its y.
  void resume();

  // Answers all products.
  void run(Linears& linears);

  const float* logits() const { return logits_.data(); }  // (wanted, vocab), of the last stage
  const float* hidden() const { return x_.data(); }       // (rows, hidden), of the others
  const float* normed() const { return h_.data(); }       // (wanted, hidden), of the last stage without its head
  std::size_t rows() const { return live_; }
  std::size_t wanted() const { return batch_.wanted; }
  bool has_logits() const { return batch_.head; }

 private:
  struct Routed {
    std::size_t row;
    float weight;
  };

  void check(const Batch& batch) const;
  void wait(Site site, int expert, const Floats& x, std::size_t rows, const Floats& y);
  void enter();
  void start_layer();
  void after_qkv();
  void after_inputs();
  void put_together();
  void tell_layers(const float* embedding);
  void hear();
  void activate(const float* gate_up, std::size_t rows, std::size_t width, float* out) const;
  void gate_mixed();
  void hide_padding();
  void prepare_heads(std::size_t begin, std::size_t end);
  void keep_wanted_rows();
  void choose_adapters();
  void keep_wanted_adapters();
  const Addition* addition();
  Added added(ToldProduct product, const float* x, std::size_t inputs, float* y, std::size_t outputs);
  void go_on();
  void after_o();
  void after_gate_up();
  void after_down();
  void route();
  void norm_for_experts(const float* gain);
  void norm_given(const float* gain, float* x, std::size_t rows);
  void next_expert(std::size_t expert);
  void close_layer(float* delta);
  void finish_logits();
  const float* mlp_bias(const float* dense, const float* experts, std::size_t columns) const;
  void add_norm(float* delta, const float* output_gain, const float* gain, float layer_scale = 1.0f);
  void add_bias(const float* bias, float* x, std::size_t rows, std::size_t columns);
  void told(const char* name, const float* data, std::size_t rows, std::size_t columns, int expert = -1);

  const LayerParameters& layer_parameters() const { return decoder_.parameters().layers[layer_]; }
  bool last_layer() const { return layer_ + 1 == decoder_.spec().layers; }

  const Decoder& decoder_;
  KvCache& cache_;
  ThreadPool& pool_;
  Trace trace_;
  Workspace workspace_;

  Batch batch_;
  std::vector<Slot> slots_;
  std::size_t layer_ = 0;
  std::size_t live_ = 0;  // rows that still run
  bool done_ = true;
  Product product_{};

  std::vector<const Adapter*> row_adapters_;  // of the rows that still run; empty: none at all
  std::vector<AdaptedRows> adapted_;          // these by adapter
  std::vector<AdaptedRows> adapted_routed_;   // of the expert at hand
  Addition addition_;

  Floats x_;        // (live, hidden) the residual stream
  Floats spare_;    // the residual stream again, when rows leave; first the embedding, where x_ is another stage's
  Floats h_;        // (live, hidden) after a norm
  Floats qkv_;      // (rows, [q | k | v])
  Floats parts_;    // (rows, [q and its gates | k | v]) as the product gives them where that isn't qkv_
  Floats gates_;    // (rows, heads * head_dim) of attention with gates
  Floats mixed_;    // (live, heads * head_dim), or what a recurrence gives
  Floats y_;        // (live, hidden) what a sublayer adds
  Floats gate_up_;  // (live, [gate | up])
  Floats active_;   // (live, width)
  Floats logits_;   // (wanted, vocab)
  RecurrentScratch recurrent_;

  // Where layers are told of tokens:
  Floats layer_inputs_;  // (rows, layers, width)
  Floats layer_gate_;    // (live, width)
  Floats layer_active_;  // (live, 2 * width), and first the embeddings, (rows, layers, width)

  // Of a mixture of experts:
  Floats router_, router_scratch_, weights_;  // (live, experts) twice, (live, top_k)
  Floats shared_weights_;                     // (live, shared) where shared experts have gates
  std::vector<std::int32_t> picked_;          // (live, top_k)
  std::vector<std::vector<Routed>> routed_;   // the rows of each expert
  Floats gathered_;                           // (rows of an expert, hidden)
  Floats expert_inputs_;                      // (live, hidden) where experts have norms of their own
  Floats mixture_;                            // (live, hidden)
};

}  // namespace cutset
