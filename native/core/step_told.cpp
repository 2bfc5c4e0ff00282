// How a step begins: the residual stream, and what layers are told of a token besides it.
#include <cstring>

#include "core/step.h"
#include "core/step_rows.h"
#include "kernels/table.h"

namespace cutset {

// The residual stream and its norm for the first layer here: of the tokens' embedding, or as the stage before gave it.
void Step::enter() {
  const DecoderSpec& spec = decoder_.spec();
  const std::size_t hidden = spec.hidden;
  float* x = x_.take(live_, hidden);
  float* h = h_.take(live_, hidden);
  float* embedding = !batch_.hidden ? x : spec.has_embedding() ? spare_.take(live_, hidden) : nullptr;
  const float* gain = layer_parameters().attention_norm;
  const bool scan = decoder_.data_oblivious();
  if (embedding && scan) decoder_.embed_obliviously(pool_, batch_.token_ids, live_, embedding);
  each_rows(pool_, live_, hidden, [&](std::size_t begin, std::size_t end) {
    const std::size_t at = begin * hidden;
    const std::size_t rows = end - begin;
    if (embedding && !scan) decoder_.embed(batch_.token_ids + begin, rows, embedding + at);
    if (embedding && spec.embedding_scale != 1.0f) {
      kernels().glue.scale(embedding + at, spec.embedding_scale, rows * hidden);
    }
    if (batch_.hidden) std::memcpy(x + at, batch_.hidden + at, rows * hidden * sizeof(float));
    normalise(x + at, gain, spec, rows, h + at);
  });
  if (embedding) tell_layers(embedding);
  if (trace_ && !batch_.hidden) trace_({"embedding", -1, -1, x, live_, hidden, hidden});
}

// What the layers here are told of the rows' tokens.
void Step::tell_layers(const float* embedding) {
  const DecoderSpec& spec = decoder_.spec();
  const LayerInputs& inputs = spec.layer_inputs;
  if (!inputs.width) return;
  const Parameters& parameters = decoder_.parameters();
  const std::size_t columns = spec.stage_layers() * inputs.width;
  float* told = layer_inputs_.take(live_, columns);
  float* own = layer_active_.take(live_, columns);
  decoder_.layer_product().forward(pool_, embedding, live_, told, workspace_,
                                   added(ToldProduct::kAll, embedding, spec.hidden, told, columns));
  const bool scan = decoder_.data_oblivious();
  if (scan) scan_table(pool_, parameters.layer_embedding, inputs.vocab, batch_.token_ids, live_, columns, own);
  each_rows(pool_, live_, columns, [&](std::size_t begin, std::size_t end) {
    const GlueKernels& glue = kernels().glue;
    const std::size_t at = begin * columns;
    const std::size_t count = (end - begin) * columns;
    glue.scale(told + at, inputs.product_scale, count);
    glue.rms_norm(told + at, parameters.layer_product_norm, spec.norm_eps, (end - begin) * spec.stage_layers(),
                  inputs.width, told + at);
    if (!scan) look_up(parameters.layer_embedding, batch_.token_ids + begin, end - begin, columns, own + at);
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
      const float* told = layer_inputs_.data() + (row * spec.stage_layers() + layer_ - spec.first) * width;
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
