// What layers are told of a token besides the residual stream.
#include <cstring>

#include "core/step.h"
#include "core/step_rows.h"
#include "kernels/table.h"

namespace cutset {

// What all layers are told of the rows' tokens.
void Step::tell_layers() {
  const DecoderSpec& spec = decoder_.spec();
  const LayerInputs& inputs = spec.layer_inputs;
  if (!inputs.width) return;
  const Parameters& parameters = decoder_.parameters();
  const std::size_t columns = spec.layers * inputs.width;
  float* told = layer_inputs_.take(live_, columns);
  float* own = layer_active_.take(live_, columns);
  decoder_.layer_product().forward(pool_, x_.data(), live_, told, workspace_,
                                   added(ToldProduct::kAll, x_.data(), spec.hidden, told, columns));
  each_rows(pool_, live_, columns, [&](std::size_t begin, std::size_t end) {
    const GlueKernels& glue = kernels().glue;
    const std::size_t at = begin * columns;
    const std::size_t count = (end - begin) * columns;
    glue.scale(told + at, inputs.product_scale, count);
    glue.rms_norm(told + at, parameters.layer_product_norm, spec.norm_eps, (end - begin) * spec.layers, inputs.width,
                  told + at);
    glue.embedding(parameters.layer_embedding, batch_.token_ids + begin, end - begin, columns, own + at);
    glue.scaled_add(told + at, inputs.embedding_scale, own + at, count);
    glue.scale(told + at, inputs.scale, count);
  });
}

// What the layer adds by what it is told, to y_.
void Step::hear() {
  const DecoderSpec& spec = decoder_.spec();
  const std::size_t width = spec.layer_inputs.width;
  float* gate = layer_gate_.take(live_, width);
  decoder_.layer_gate(layer_).forward(pool_, x_.data(), live_, gate, workspace_,
                                      added(ToldProduct::kGate, x_.data(), spec.hidden, gate, width));
  float* pairs = layer_active_.take(live_, 2 * width);
  float* active = layer_gate_.data();
  each_rows(pool_, live_, 2 * width, [&](std::size_t begin, std::size_t end) {
    for (std::size_t r = begin; r < end; ++r) {
      const std::size_t row = last_layer() ? static_cast<std::size_t>(batch_.logit_rows[r]) : r;
      const float* told = layer_inputs_.data() + (row * spec.layers + layer_) * width;
      std::memcpy(pairs + r * 2 * width, gate + r * width, width * sizeof(float));
      std::memcpy(pairs + r * 2 * width + width, told, width * sizeof(float));
    }
    activate(pairs + begin * 2 * width, end - begin, width, active + begin * width);
  });
  float* y = y_.take(live_, spec.hidden);
  decoder_.layer_out(layer_).forward(pool_, active, live_, y, workspace_,
                                     added(ToldProduct::kOut, active, width, y, spec.hidden));
}

}  // namespace cutset
