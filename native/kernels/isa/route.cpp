// The router of a mixture of experts.
#include "kernels/isa/glue.h"
#include "kernels/isa/simd_math.h"

namespace cutset::CUTSET_ISA {

namespace {

// probabilities = softmax(logits)
void softmax(const float* logits, std::size_t experts, float* probabilities) {
  float biggest = logits[0];
  for (std::size_t e = 1; e < experts; ++e) biggest = logits[e] > biggest ? logits[e] : biggest;
  for_each_vec(experts, [&](auto get, auto put) { put(probabilities, exp(sub(get(logits), splat(biggest)))); });
  float sum = 0.0f;
  for (std::size_t e = 0; e < experts; ++e) sum += probabilities[e];
  for_each_vec(experts, [&](auto get, auto put) { put(probabilities, div(get(probabilities), splat(sum))); });
}

}  // namespace

void moe_route(const float* logits, std::size_t rows, std::size_t experts, std::size_t k, bool renormalise,
               std::int32_t* ids, float* weights, float* scratch) {
  for (std::size_t r = 0; r < rows; ++r, logits += experts, ids += k, weights += k) {
    softmax(logits, experts, scratch);
    float sum = 0.0f;
    for (std::size_t i = 0; i < k; ++i) {
      std::size_t best = 0;
      for (std::size_t e = 1; e < experts; ++e) best = scratch[e] > scratch[best] ? e : best;
      ids[i] = static_cast<std::int32_t>(best);
      weights[i] = scratch[best];
      sum += scratch[best];
      scratch[best] = -1.0f;  // taken
    }
    if (renormalise) {
      for (std::size_t i = 0; i < k; ++i) weights[i] /= sum + 1e-20f;
    }
  }
}

}  // namespace cutset::CUTSET_ISA
