// One forward pass over whole sequences from an empty cache, and its time alone.
#pragma once

#include <vector>

#include "core/step.h"
#include "runner/exchange.h"
#include "runner/model.h"

namespace cutset::runner {

class Forward {
 public:
  // Model, inputs and pool must outlive it. Padding is not seen; logits at padding mean nothing.
  Forward(Model& model, const Inputs& inputs, ThreadPool& pool);

  double run();                                     // seconds
  const float* logits() { return step_.logits(); }  // (batch, tokens, vocab)

 private:
  Model& model_;
  RopeTables rope_;
  std::vector<float> query_scales_;
  std::vector<std::int32_t> row_starts_, context_lens_, block_tables_, rows_;
  Batch batch_;
  KvCache cache_;
  Step step_;
};

// Of repeated measurements: median, and half the range between the quartiles as a share of the median.
struct Summary {
  double median;
  double spread;
};
Summary summarise(std::vector<double> samples);

}  // namespace cutset::runner
