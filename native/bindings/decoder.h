#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings/checks.h"
#include "core/decoder.h"
#include "core/step.h"

namespace cutset::bindings {

constexpr const char* kSites[] = {"qkv", "o", "gate_up", "down", "lm_head"};

inline Site site_named(const std::string& name) {
  for (int i = 0; i < 5; ++i) {
    if (name == kSites[i]) return static_cast<Site>(i);
  }
  throw nanobind::value_error("there is no such site");
}

// A decoder and what its parameters lie in.
struct PyDecoder {
  std::vector<nanobind::ndarray<>> arrays;
  nanobind::object embedding_codes;
  std::unique_ptr<Decoder> decoder;

  const DecoderSpec& spec() const { return decoder->spec(); }
};

// A step and the arrays of its batch.
class PyStep {
 public:
  PyStep(const PyDecoder& decoder, KvCache& cache, ThreadPool& pool, std::optional<nanobind::callable> trace);

  void begin(Ids1 token_ids, In2 cos, In2 sin, Ids1 row_starts, Ids1 context_lens, Ids2 block_tables, Ids1 logit_rows,
             std::optional<Array<const bool, 2>> key_mask, std::optional<nanobind::list> adapters,
             std::optional<Ids1> state_slots, std::optional<Ids1> state_sources, std::optional<Ids2> state_saves,
             std::optional<In1> query_scales, std::optional<In2> hidden, bool head);
  // The same, up to the hidden states: `start` begins with these.
  void prepare(Ids1 token_ids, In2 cos, In2 sin, Ids1 row_starts, Ids1 context_lens, Ids2 block_tables, Ids1 logit_rows,
               std::optional<Array<const bool, 2>> key_mask, std::optional<nanobind::list> adapters,
               std::optional<Ids1> state_slots, std::optional<Ids1> state_sources, std::optional<Ids2> state_saves,
               std::optional<In1> query_scales, bool head);
  void start(std::optional<In2> hidden);
  nanobind::object waiting() const;
  nanobind::object output() const;
  void resume(std::optional<In2> y);
  void run(Linears& linears);
  nanobind::object logits();
  nanobind::object hidden();

  Step& step() { return step_; }

  // For native code, with no lock of Python's: begins with (rows, hidden) floats, which are read until this returns.
  void start_at(const float* hidden);
  const float* made() const { return step_.hidden(); }  // (rows, hidden) by a stage that isn't the last
  std::size_t hidden_bytes() const { return batch_.rows.count * spec_.hidden * sizeof(float); }

 private:
  const DecoderSpec& spec_;
  Step step_;
  Batch batch_;
  bool prepared_ = false;
  std::vector<nanobind::ndarray<>> held_;
  std::optional<nanobind::list> adapters_;
};

}  // namespace cutset::bindings

void bind_decoder(nanobind::module_& m);
void bind_step(nanobind::module_& m);
