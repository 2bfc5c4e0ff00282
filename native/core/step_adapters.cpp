// Which adapters a step's rows have, and what they add to its products.
#include <utility>

#include "core/step.h"

namespace cutset {

void Step::choose_adapters() {
  row_adapters_.clear();
  adapted_.clear();
  for (std::size_t s = 0; s < batch_.adapters.size(); ++s) {
    const auto rows = static_cast<std::size_t>(batch_.rows.row_starts[s + 1] - batch_.rows.row_starts[s]);
    row_adapters_.insert(row_adapters_.end(), rows, batch_.adapters[s]);
  }
  adapted_ = adapted_rows(row_adapters_);
}

// What the rows' adapters add to the product at hand; nullptr for nothing.
const Addition* Step::addition() {
  if (adapted_.empty()) return nullptr;
  const std::size_t index = decoder_.spec().index(product_.site, product_.layer, product_.expert);
  const bool routed = product_.expert >= 0 && static_cast<std::size_t>(product_.expert) < decoder_.spec().experts;
  if (routed) {
    std::vector<const Adapter*> adapters;
    for (const Routed& row : routed_[static_cast<std::size_t>(product_.expert)]) {
      adapters.push_back(row_adapters_[row.row]);
    }
    adapted_routed_ = adapted_rows(adapters);
  }
  const bool some = addition_.begin(routed ? adapted_routed_ : adapted_, index, product_.x, product_.inputs, product_.y,
                                    product_.outputs, pool_.threads());
  return some ? &addition_ : nullptr;
}

// The same to a product of what layers are told.
Added Step::added(ToldProduct product, const float* x, std::size_t inputs, float* y, std::size_t outputs) {
  if (adapted_.empty()) return {};
  const std::size_t index = decoder_.spec().index(product, static_cast<int>(layer_));
  const bool some = addition_.begin(adapted_, index, x, inputs, y, outputs, pool_.threads());
  return {some ? &addition_ : nullptr, 0, false};
}

void Step::keep_wanted_adapters() {
  if (row_adapters_.empty()) return;
  std::vector<const Adapter*> kept;
  for (std::size_t i = 0; i < batch_.wanted; ++i) {
    kept.push_back(row_adapters_[static_cast<std::size_t>(batch_.logit_rows[i])]);
  }
  row_adapters_ = std::move(kept);
  adapted_ = adapted_rows(row_adapters_);
}

}  // namespace cutset
