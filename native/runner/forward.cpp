#include "runner/forward.h"

#include <algorithm>
#include <chrono>
#include <numeric>

#include "core/memory.h"

namespace cutset::runner {

namespace {

constexpr std::size_t kBlock = 16;

std::size_t blocks(const Inputs& inputs) { return (inputs.tokens + kBlock - 1) / kBlock; }

// At a position between 0 and 1 of sorted samples, as statistics.quantiles(method="inclusive") has it.
double quantile(const std::vector<double>& sorted, double at) {
  const double place = at * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const double rest = place - static_cast<double>(below);
  return sorted[below] + (rest > 0 ? rest * (sorted[below + 1] - sorted[below]) : 0);
}

}  // namespace

Forward::Forward(Model& model, const Inputs& inputs, ThreadPool& pool)
    : model_(model),
      rope_(rope_tables(model.spec().ropes, inputs.batch, inputs.tokens)),
      query_scales_(query_scales(model.spec().query_growth, model.spec().query_positions, inputs.batch, inputs.tokens)),
      row_starts_(inputs.batch + 1),
      context_lens_(inputs.batch, static_cast<std::int32_t>(inputs.tokens)),
      block_tables_(inputs.batch * blocks(inputs)),
      rows_(inputs.batch * inputs.tokens),
      cache_(model.spec().core, block_tables_.size(), kBlock),
      step_(model.decoder(), cache_, pool) {
  for (std::size_t i = 0; i <= inputs.batch; ++i) row_starts_[i] = static_cast<std::int32_t>(i * inputs.tokens);
  std::iota(block_tables_.begin(), block_tables_.end(), 0);
  std::iota(rows_.begin(), rows_.end(), 0);
  const bool padded = std::find(inputs.mask.begin(), inputs.mask.end(), 0) != inputs.mask.end();
  batch_.rows = {rows_.size(),
                 inputs.batch,
                 row_starts_.data(),
                 context_lens_.data(),
                 block_tables_.data(),
                 blocks(inputs),
                 padded ? inputs.mask.data() : nullptr,
                 padded ? inputs.tokens : 0};
  batch_.token_ids = inputs.ids.data();
  batch_.cos = rope_.cos.data();
  batch_.sin = rope_.sin.data();
  batch_.query_scales = query_scales_.empty() ? nullptr : query_scales_.data();
  batch_.logit_rows = rows_.data();
  batch_.wanted = rows_.size();
}

double Forward::run() {
  const auto start = std::chrono::steady_clock::now();
  step_.begin(batch_);
  step_.run(model_.linears());
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Summary summarise(std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  const double median = quantile(samples, 0.5);
  return {median, median > 0 ? (quantile(samples, 0.75) - quantile(samples, 0.25)) / 2 / median : 0};
}

}  // namespace cutset::runner
