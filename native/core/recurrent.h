// Layers that remember in a state of a sequence instead of keys and values; cutset.models.run.recurrent is the twin.
//
// Rows of a sequence are taken one after another, so that its state doesn't depend on how a prefill was cut.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/memory.h"
#include "core/pool.h"
#include "core/rows.h"
#include "core/spec.h"

namespace cutset {

// Where the states of a batch's sequences lie; cutset.models.run.executor.States documents the fields.
struct States {
  const std::int32_t* slots = nullptr;    // (sequences); nullptr: none were given
  const std::int32_t* sources = nullptr;  // (sequences)
  const std::int32_t* saves = nullptr;    // (save_count, [sequence, tokens, slot])
  std::size_t save_count = 0;
};

// The states of `slots` sequences in all recurrent layers: [slots][layers][floats].
class StateCache {
 public:
  StateCache(const DecoderSpec& spec, std::size_t slots);  // std::bad_alloc, std::length_error

  float* at(std::size_t place, std::size_t slot) { return memory_.as<float>() + (slot * layers_ + place) * floats_; }
  bool fits(const DecoderSpec& spec) const;
  std::size_t slots() const { return slots_; }
  std::size_t bytes() const { return memory_.bytes(); }

  // std::invalid_argument unless the places are those of these rows, and none is written twice or written and read.
  void check(const Rows& rows, const States& states) const;

 private:
  std::size_t layers_, floats_, slots_;
  Buffer memory_;
};

// Parameters of a recurrent layer; nullptr where there is none.
struct RecurrentParameters {
  const float* in_proj_bias = nullptr;   // (inputs)
  const float* conv = nullptr;           // (taps, convolved)
  const float* conv_bias = nullptr;      // (convolved)
  const float* out_proj_bias = nullptr;  // (hidden)
  const float* decay = nullptr;          // (value_heads), and the following: kDelta
  const float* decay_bias = nullptr;     // (value_heads)
  const float* delta_gain = nullptr;     // (value_dim)
};

// Room for one call at a time.
struct RecurrentScratch {
  std::vector<float> zeros, gains;  // what came before a sequence's start; of q, then of k
  Workspace rows, gates;
};

// From x (rows, inputs), which is used up, to mixed (rows, mixed). The states go on. `place`: the layer's among the
// recurrent ones.
void recur(ThreadPool& pool, const DecoderSpec& spec, const RecurrentParameters& parameters, const Rows& rows,
           const States& states, StateCache& cache, std::size_t place, float* x, float* mixed,
           RecurrentScratch& scratch);

}  // namespace cutset
