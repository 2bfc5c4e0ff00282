// MLPs in a step: their activation, and a mixture of experts: which rows go to which, and one after another.
#include <cmath>
#include <cstring>

#include "core/step.h"
#include "core/step_rows.h"
#include "kernels/table.h"

namespace cutset {

// Of rows [gate | up], (rows, 2 * width).
void Step::activate(const float* gate_up, std::size_t rows, std::size_t width, float* out) const {
  const GlueKernels& glue = kernels().glue;
  const DecoderSpec& spec = decoder_.spec();
  switch (spec.activation) {
    case Activation::kSilu:
      return glue.silu_mul(gate_up, rows, width, out);
    case Activation::kGelu:
      return glue.gelu_mul(gate_up, rows, width, out);
    case Activation::kGeluErf:
      return glue.gelu_erf_mul(gate_up, rows, width, out);
    case Activation::kRelu:
    case Activation::kRelu2:
      return glue.relu_mul(gate_up, spec.activation == Activation::kRelu2, rows, width, out);
    case Activation::kClamped:
      return glue.clamped_mul(gate_up, spec.activation_limit, spec.activation_alpha, rows, width, out);
  }
}

// expert_inputs_ = norm(x)
void Step::norm_for_experts(const float* gain) {
  const DecoderSpec& spec = decoder_.spec();
  float* out = expert_inputs_.take(live_, spec.hidden);
  each_rows(pool_, live_, spec.hidden, [&](std::size_t begin, std::size_t end) {
    normalise(x_.data() + begin * spec.hidden, gain, spec, end - begin, out + begin * spec.hidden);
  });
}

// x = norm(x), where there is a norm;  x: (rows, hidden)
void Step::norm_given(const float* gain, float* x, std::size_t rows) {
  const DecoderSpec& spec = decoder_.spec();
  if (!gain) return;
  each_rows(pool_, rows, spec.hidden, [&](std::size_t begin, std::size_t end) {
    float* at = x + begin * spec.hidden;
    kernels().glue.rms_norm(at, gain, spec.norm_eps, end - begin, spec.hidden, at);
  });
}

void Step::route() {
  const DecoderSpec& spec = decoder_.spec();
  float* logits = router_.take(live_, spec.experts);
  float* scratch = router_scratch_.take(live_, spec.experts);
  float* weights = weights_.take(live_, spec.top_k);
  picked_.resize(live_ * spec.top_k);
  const LayerParameters& own = layer_parameters();
  const bool normed = own.router_norm != nullptr;
  if (normed) norm_for_experts(own.router_norm);
  decoder_.router(layer_).forward(pool_, normed ? expert_inputs_.data() : h_.data(), live_, logits, workspace_);
  if (spec.router_scale != 1.0f) kernels().glue.scale(logits, spec.router_scale, live_ * spec.experts);
  if (normed) norm_for_experts(own.expert_norm);
  add_bias(layer_parameters().router_bias, logits, live_, spec.experts);
  if (const PackedF32* gate = decoder_.shared_gate(layer_)) {
    float* gates = shared_weights_.take(live_, spec.shared);
    gate->forward(pool_, h_.data(), live_, gates, workspace_);
    for (std::size_t i = 0; i < live_ * spec.shared; ++i) gates[i] = 1.0f / (1.0f + std::exp(-gates[i]));
  }
  told("router", logits, live_, spec.experts);
  each_rows(pool_, live_, spec.experts * spec.top_k, [&](std::size_t begin, std::size_t end) {
    const std::size_t at = begin * spec.experts;
    kernels().glue.moe_route(logits + at, end - begin, spec.experts, spec.top_k, spec.normalise,
                             picked_.data() + begin * spec.top_k, weights + begin * spec.top_k, scratch + at);
  });
  if (own.expert_scale) {
    for (std::size_t i = 0; i < picked_.size(); ++i) weights[i] *= own.expert_scale[picked_[i]];
  }
  routed_.resize(spec.experts);
  for (std::vector<Routed>& rows : routed_) rows.clear();
  for (std::size_t i = 0; i < picked_.size(); ++i) {
    routed_[static_cast<std::size_t>(picked_[i])].push_back({i / spec.top_k, weights[i]});
  }
  std::memset(mixture_.take(live_, spec.hidden), 0, live_ * spec.hidden * sizeof(float));
}

// In ascending order for every row, whoever shares the batch; shared experts come last.
void Step::next_expert(std::size_t expert) {
  const DecoderSpec& spec = decoder_.spec();
  while (expert < spec.experts && routed_[expert].empty()) ++expert;
  // Once, when all routed ones are through.
  if (expert == spec.experts) norm_given(layer_parameters().expert_output_norm, mixture_.data(), live_);
  if (expert == spec.experts + spec.shared) {
    told("experts", mixture_.data(), live_, spec.hidden);
    return close_layer(mixture_.data());
  }
  const bool routed = expert < spec.experts;
  const std::size_t rows = routed ? routed_[expert].size() : live_;
  if (routed) {
    const float* inputs = layer_parameters().expert_norm ? expert_inputs_.data() : h_.data();
    float* gathered = gathered_.take(rows, spec.hidden);
    for (std::size_t i = 0; i < rows; ++i) {
      const float* row = inputs + routed_[expert][i].row * spec.hidden;
      std::memcpy(gathered + i * spec.hidden, row, spec.hidden * sizeof(float));
    }
  }
  const int number = static_cast<int>(expert);
  gate_up_.take(rows, 2 * spec.width(layer_, number));
  wait(Site::kGateUp, number, routed ? gathered_ : h_, rows, gate_up_);
}

}  // namespace cutset
