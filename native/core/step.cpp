#include "core/step.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "core/step_rows.h"
#include "kernels/table.h"

namespace cutset {

namespace {

void require(bool right, const char* message) {
  if (!right) throw std::invalid_argument(message);
}

}  // namespace

float* Floats::take(std::size_t rows, std::size_t columns) {
  const std::size_t bytes = checked_product(checked_product(rows, columns), sizeof(float));
  if (bytes > memory_->bytes()) memory_ = std::make_shared<Buffer>(bytes);
  return data();
}

Step::Step(const Decoder& decoder, KvCache& cache, ThreadPool& pool, Trace trace)
    : decoder_(decoder), cache_(cache), pool_(pool), trace_(std::move(trace)) {
  require(cache.fits(decoder.spec()), "the cache was made for another decoder");
}

void Step::check(const Batch& batch) const {
  require(batch.rows.count >= 1, "a step needs at least one row");
  check_rows(batch.rows, cache_.blocks(), cache_.block_size());
  cache_.states().check(batch.rows, batch.states);
  require(batch.adapters.empty() || batch.adapters.size() == batch.rows.sequences,
          "adapters must have one element for each sequence");
  for (const Adapter* adapter : batch.adapters) {
    require(!adapter || adapter->fits(decoder_.spec()), "an adapter was made for another decoder");
  }
  const auto inside = [](const std::int32_t* values, std::size_t count, std::size_t end) {
    return std::all_of(values, values + count,
                       [=](std::int32_t value) { return value >= 0 && static_cast<std::size_t>(value) < end; });
  };
  require(inside(batch.token_ids, batch.rows.count, decoder_.spec().vocab),
          "a token id lies outside of the vocabulary");
  require(inside(batch.logit_rows, batch.wanted, batch.rows.count), "logit_rows names a row that isn't there");
  require(!batch.hidden == !decoder_.spec().first, "the first stage takes tokens, the others what the one before gave");
}

void Step::begin(const Batch& batch) {
  done_ = true;
  check(batch);
  batch_ = batch;
  live_ = batch.rows.count;
  layer_ = decoder_.spec().first;
  slots_ = cache_slots(batch.rows, cache_.block_size());
  choose_adapters();
  enter();
  start_layer();
}

void Step::run(Linears& linears) {
  while (!done_) {
    linears.forward(product_.site, product_.layer, product_.expert, product_.x, product_.rows, product_.y, addition());
    go_on();
  }
}

void Step::resume() {
  require(!done_, "the step is done; begin another");
  done_ = true;  // after an exception, too
  if (const Addition* more = addition()) more->run(pool_);
  go_on();
}

void Step::go_on() {
  done_ = true;  // unless it waits again, which it doesn't after an exception
  switch (product_.site) {
    case Site::kQkv:
      return after_qkv();
    case Site::kO:
      return after_o();
    case Site::kGateUp:
      return after_gate_up();
    case Site::kDown:
      return after_down();
    case Site::kLmHead:
      finish_logits();
      if (trace_) trace_({"lm_head", -1, -1, logits_.data(), live_, decoder_.spec().vocab, decoder_.spec().vocab});
  }
}

void Step::wait(Site site, int expert, const Floats& x, std::size_t rows, const Floats& y) {
  const DecoderSpec& spec = decoder_.spec();
  const int layer = site == Site::kLmHead ? -1 : static_cast<int>(layer_);
  const std::size_t inputs = spec.inputs(site, layer, expert);
  const std::size_t outputs = spec.outputs(site, layer, expert);
  product_ = {site, layer, expert, x.data(), rows, inputs, y.data(), outputs, x.memory(), y.memory()};
  done_ = false;
}

void Step::finish_logits() {
  const DecoderSpec& spec = decoder_.spec();
  float* logits = logits_.data();
  if (spec.logit_scale == 1.0f && spec.logit_softcap == 0.0f) return;
  each_rows(pool_, live_, spec.vocab, [&](std::size_t begin, std::size_t end) {
    float* at = logits + begin * spec.vocab;
    const std::size_t count = (end - begin) * spec.vocab;
    if (spec.logit_scale != 1.0f) kernels().glue.scale(at, spec.logit_scale, count);
    if (spec.logit_softcap > 0.0f) kernels().glue.softcap(at, spec.logit_softcap, count);
  });
}

void Step::told(const char* name, const float* data, std::size_t rows, std::size_t columns, int expert) {
  if (trace_) trace_({name, static_cast<int>(layer_), expert, data, rows, columns, columns});
}

void Step::add_bias(const float* bias, float* x, std::size_t rows, std::size_t columns) {
  if (!bias) return;
  each_rows(pool_, rows, columns, [&](std::size_t begin, std::size_t end) {
    kernels().glue.add_bias(x + begin * columns, bias, end - begin, columns);
  });
}

// x = layer_scale * (x + scale * norm(delta)); h = norm(x); where there are such norms. `delta` is used up.
void Step::add_norm(float* delta, const float* output_gain, const float* gain, float layer_scale) {
  const DecoderSpec& spec = decoder_.spec();
  const GlueKernels& glue = kernels().glue;
  float* x = x_.data();
  float* h = h_.data();
  each_rows(pool_, live_, spec.hidden, [&](std::size_t begin, std::size_t end) {
    const std::size_t at = begin * spec.hidden;
    const std::size_t rows = end - begin;
    if (output_gain) glue.rms_norm(delta + at, output_gain, spec.norm_eps, rows, spec.hidden, delta + at);
    if (spec.residual_scale != 1.0f) glue.scale(delta + at, spec.residual_scale, rows * spec.hidden);
    if (layer_scale != 1.0f) {
      glue.scaled_add(x + at, 1.0f, delta + at, rows * spec.hidden);
      glue.scale(x + at, layer_scale, rows * spec.hidden);
      normalise(x + at, gain, spec, rows, h + at);
    } else if (gain) {
      glue.add_rms_norm(x + at, delta + at, gain, spec.norm_eps, rows, spec.hidden, h + at);
    } else {
      glue.scaled_add(x + at, 1.0f, delta + at, rows * spec.hidden);
      normalise(x + at, nullptr, spec, rows, h + at);
    }
  });
}

void Step::start_layer() {
  const DecoderSpec& spec = decoder_.spec();
  if (spec.is_recurrent(layer_)) hide_padding();
  told("attention_norm", h_.data(), live_, spec.hidden);
  const bool parted = spec.is_parted(layer_) && !spec.is_recurrent(layer_);
  if (parted) parts_.take(live_, spec.qkv_outputs(layer_));
  qkv_.take(live_, parted ? spec.heads_of(layer_).qkv_size() : spec.outputs(Site::kQkv, static_cast<int>(layer_), -1));
  wait(Site::kQkv, -1, h_, live_, parted ? parts_ : qkv_);
}

// Zeros at padding, which would find its way into states.
void Step::hide_padding() {
  const Rows& rows = batch_.rows;
  if (!rows.key_mask) return;
  const std::size_t hidden = decoder_.spec().hidden;
  for (std::size_t s = 0; s < rows.sequences; ++s) {
    for (auto r = static_cast<std::size_t>(rows.row_starts[s]); r < static_cast<std::size_t>(rows.row_starts[s + 1]);
         ++r) {
      const bool seen = rows.key_mask[s * rows.mask_width + rows.position(s, r)];
      if (!seen) std::memset(h_.data() + r * hidden, 0, hidden * sizeof(float));
    }
  }
}

// From what the product gives to [q | k | v] and gates. It has no v where that is k, no k either where both are another
// layer's, and where there are gates each head has q and then its gate.
void Step::put_together() {
  const DecoderSpec& spec = decoder_.spec();
  const HeadShape& shape = spec.heads_of(layer_);
  const std::size_t width = spec.qkv_outputs(layer_);
  float* gates = spec.gated_attention ? gates_.take(live_, shape.q_size()) : nullptr;
  each_rows(pool_, live_, width, [&](std::size_t begin, std::size_t end) {
    const std::size_t head = shape.head_dim;
    for (std::size_t r = begin; r < end; ++r) {
      const float* from = parts_.data() + r * width;
      float* to = qkv_.data() + r * shape.qkv_size();
      for (std::size_t h = 0; h < shape.heads; ++h, from += gates ? 2 * head : head, to += head) {
        std::memcpy(to, from, head * sizeof(float));
        if (gates) std::memcpy(gates + r * shape.q_size() + h * head, from + head, head * sizeof(float));
      }
      if (!spec.has_own_kv(layer_)) continue;
      std::memcpy(to, from, shape.kv_size() * sizeof(float));
      const float* v = spec.has_equal_kv(layer_) ? from : from + shape.kv_size();
      std::memcpy(to + shape.kv_size(), v, shape.kv_size() * sizeof(float));
    }
  });
}

// What attention mixed, times the sigmoids of the gates of its rows.
void Step::gate_mixed() {
  const std::size_t size = decoder_.spec().heads_of(layer_).q_size();
  each_rows(pool_, live_, size, [&](std::size_t begin, std::size_t end) {
    for (std::size_t r = begin; r < end; ++r) {
      const std::size_t row = last_layer() ? static_cast<std::size_t>(batch_.logit_rows[r]) : r;
      kernels().glue.sigmoid_mul(mixed_.data() + r * size, gates_.data() + row * size, size);
    }
  });
}

// The recurrence in the place of attention. It takes all rows, even where few go on.
void Step::after_inputs() {
  const DecoderSpec& spec = decoder_.spec();
  const RecurrentParameters& parameters = layer_parameters().recurrent;
  const std::size_t inputs = spec.recurrence.inputs(spec.hidden);
  const std::size_t columns = spec.recurrence.mixed(spec.hidden);
  add_bias(parameters.in_proj_bias, qkv_.data(), live_, inputs);
  told("qkv", qkv_.data(), live_, inputs);
  recur(pool_, spec, parameters, batch_.rows, batch_.states, cache_.states(), spec.recurrent_before(layer_),
        qkv_.data(), mixed_.take(live_, columns), recurrent_);
  if (last_layer()) {
    keep_wanted_rows();
    if (live_ == 0) return;
    float* kept = gates_.take(live_, columns);
    for (std::size_t i = 0; i < live_; ++i) {
      const float* row = mixed_.data() + static_cast<std::size_t>(batch_.logit_rows[i]) * columns;
      std::memcpy(kept + i * columns, row, columns * sizeof(float));
    }
    std::swap(mixed_, gates_);
  }
  told("attention", mixed_.data(), live_, columns);
  y_.take(live_, spec.hidden);
  wait(Site::kO, -1, mixed_, live_, y_);
}

// Norms of q, k and v, rotary embedding, factors of q, cache: row by row, while a row is in the nearest cache.
void Step::prepare_heads(std::size_t begin, std::size_t end) {
  const DecoderSpec& spec = decoder_.spec();
  const HeadShape& shape = spec.heads_of(layer_);
  const LayerParameters& parameters = layer_parameters();
  const bool own = spec.has_own_kv(layer_);
  const GlueKernels& glue = kernels().glue;
  const std::size_t half = spec.rotary_dim / 2;
  const int table = spec.table_of(layer_);
  const std::size_t angles = table < 0 ? 0 : static_cast<std::size_t>(table) * batch_.rows.count * half;
  const bool whole = decoder_.parameters().whole_norms;
  const LayerCache cache = cache_.layer(layer_);
  for (std::size_t r = begin; r < end; ++r) {
    float* q = qkv_.data() + r * shape.qkv_size();
    float* k = q + shape.q_size();
    if (parameters.q_norm) {
      const std::size_t q_norms = whole ? 1 : shape.heads;
      glue.rms_norm(q, parameters.q_norm, spec.norm_eps, q_norms, shape.q_size() / q_norms, q);
    }
    if (parameters.k_norm) {
      const std::size_t k_norms = whole ? 1 : shape.kv_heads;
      glue.rms_norm(k, parameters.k_norm, spec.norm_eps, k_norms, shape.kv_size() / k_norms, k);
    }
    if (parameters.v_norm) {
      float* v = k + shape.kv_size();
      glue.rms_norm(v, parameters.v_norm, spec.norm_eps, shape.kv_heads, shape.head_dim, v);
    }
    if (table >= 0) {
      const std::size_t at = angles + r * half;
      glue.apply_rope(q, shape.qkv_size(), batch_.cos + at, batch_.sin + at, 1,
                      shape.heads + (own ? shape.kv_heads : 0), shape.head_dim, spec.rotary_of(table),
                      spec.rotary_interleaved);
    }
    if (batch_.query_scales) glue.scale(q, batch_.query_scales[r], shape.q_size());
    if (cache.type == CacheType::kInt8) glue.mix_heads(q, shape.heads + (own ? shape.kv_heads : 0), shape.head_dim);
    if (own) append(shape, cache, slots_.data(), qkv_.data(), r, r + 1);
  }
}

void Step::after_qkv() {
  const DecoderSpec& spec = decoder_.spec();
  if (spec.is_recurrent(layer_)) return after_inputs();
  const HeadShape& shape = spec.heads_of(layer_);
  float* given = spec.is_parted(layer_) ? parts_.data() : qkv_.data();
  add_bias(layer_parameters().qkv_bias, given, live_, spec.qkv_outputs(layer_));
  told("qkv", given, live_, spec.qkv_outputs(layer_));
  if (spec.is_parted(layer_)) put_together();
  each_rows(pool_, live_, shape.qkv_size(), [this](std::size_t begin, std::size_t end) { prepare_heads(begin, end); });
  if (trace_) {
    const int layer = static_cast<int>(layer_);
    trace_({"rope_q", layer, -1, qkv_.data(), live_, shape.q_size(), shape.qkv_size()});
    if (spec.has_own_kv(layer_))
      trace_({"rope_k", layer, -1, qkv_.data() + shape.q_size(), live_, shape.kv_size(), shape.qkv_size()});
  }
  const std::vector<Span> spans =
      last_layer() ? wanted_spans(batch_.rows, batch_.logit_rows, batch_.wanted) : all_spans(batch_.rows);
  if (last_layer()) keep_wanted_rows();
  if (live_ == 0) return;
  float* mixed = mixed_.take(live_, shape.q_size());
  const Attention attention = {shape, spec.window(layer_), spec.score_scale(layer_), spec.attention_softcap,
                               layer_parameters().sinks};
  attend(pool_, attention, batch_.rows, cache_.layer(layer_), spans, qkv_.data(), mixed);
  if (spec.gated_attention) gate_mixed();
  told("attention", mixed, live_, shape.q_size());
  y_.take(live_, spec.hidden);
  wait(Site::kO, -1, mixed_, live_, y_);
}

// From the last attention on only rows with logits go on.
void Step::keep_wanted_rows() {
  const std::size_t hidden = decoder_.spec().hidden;
  float* kept = spare_.take(batch_.wanted, hidden);
  for (std::size_t i = 0; i < batch_.wanted; ++i) {
    const float* row = x_.data() + static_cast<std::size_t>(batch_.logit_rows[i]) * hidden;
    std::memcpy(kept + i * hidden, row, hidden * sizeof(float));
  }
  live_ = batch_.wanted;
  std::swap(x_, spare_);
  keep_wanted_adapters();
  h_.take(live_, hidden);  // wanted rows may repeat and be more than all
}

void Step::after_o() {
  const DecoderSpec& spec = decoder_.spec();
  const float* bias =
      spec.is_recurrent(layer_) ? layer_parameters().recurrent.out_proj_bias : layer_parameters().o_bias;
  add_bias(bias, y_.data(), live_, spec.hidden);
  told("o", y_.data(), live_, spec.hidden);
  add_norm(y_.data(), layer_parameters().attention_output_norm, layer_parameters().mlp_norm);
  told("attention_add", x_.data(), live_, spec.hidden);
  told("mlp_norm", h_.data(), live_, spec.hidden);
  if (spec.is_sparse(layer_)) {
    route();
    next_expert(0);
  } else {
    gate_up_.take(live_, 2 * spec.width(layer_, -1));
    wait(Site::kGateUp, -1, h_, live_, gate_up_);
  }
}

// The bias of the dense MLP, or that of the expert at hand; shared experts have none.
const float* Step::mlp_bias(const float* dense, const float* experts, std::size_t columns) const {
  if (product_.expert < 0) return dense;
  const auto number = static_cast<std::size_t>(product_.expert);
  return experts && number < decoder_.spec().experts ? experts + number * columns : nullptr;
}

void Step::after_gate_up() {
  const std::size_t width = decoder_.spec().width(layer_, product_.expert);
  const std::size_t rows = product_.rows;
  add_bias(mlp_bias(layer_parameters().gate_up_bias, layer_parameters().expert_gate_up_bias, 2 * width),
           gate_up_.data(), rows, 2 * width);
  told("gate_up", gate_up_.data(), rows, 2 * width, product_.expert);
  const float* gate_up = gate_up_.data();
  float* active = active_.take(rows, width);
  each_rows(pool_, rows, 2 * width, [&](std::size_t begin, std::size_t end) {
    activate(gate_up + begin * 2 * width, end - begin, width, active + begin * width);
  });
  told("swiglu", active, rows, width, product_.expert);
  y_.take(rows, decoder_.spec().hidden);
  wait(Site::kDown, product_.expert, active_, rows, y_);
}

void Step::after_down() {
  const DecoderSpec& spec = decoder_.spec();
  const int expert = product_.expert;
  add_bias(mlp_bias(layer_parameters().down_bias, layer_parameters().expert_down_bias, spec.hidden), y_.data(),
           product_.rows, spec.hidden);
  told("down", y_.data(), product_.rows, spec.hidden, expert);
  if (expert < 0) return close_layer(y_.data());
  if (static_cast<std::size_t>(expert) >= spec.experts) {
    norm_given(layer_parameters().shared_output_norm, y_.data(), product_.rows);
  }

  const float* y = y_.data();
  float* mixture = mixture_.data();
  const auto number = static_cast<std::size_t>(expert);
  const float* gates = decoder_.shared_gate(layer_) ? shared_weights_.data() : nullptr;
  const Routed* routed = number < spec.experts ? routed_[number].data() : nullptr;
  each_rows(pool_, product_.rows, spec.hidden, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      const Routed to = routed ? routed[i] : Routed{i, gates ? gates[i * spec.shared + number - spec.experts] : 1.0f};
      kernels().glue.scaled_add(mixture + to.row * spec.hidden, to.weight, y + i * spec.hidden, spec.hidden);
    }
  });
  next_expert(number + 1);
}

void Step::close_layer(float* delta) {
  const DecoderSpec& spec = decoder_.spec();
  const Parameters& parameters = decoder_.parameters();
  const LayerParameters& own = layer_parameters();
  const bool ends = layer_ + 1 == spec.end();
  const float* gain = last_layer() ? parameters.final_norm
                      : ends       ? nullptr
                                   : parameters.layers[layer_ + 1].attention_norm;
  const float scale = own.layer_scale ? *own.layer_scale : 1.0f;
  if (spec.layer_inputs.width) {
    add_norm(delta, own.mlp_output_norm, nullptr);
    told("mlp_add", x_.data(), live_, spec.hidden);
    hear();
    add_norm(y_.data(), own.layer_output_norm, gain, scale);
    told("layer_add", x_.data(), live_, spec.hidden);
  } else {
    add_norm(delta, own.mlp_output_norm, gain, scale);
    told("mlp_add", x_.data(), live_, spec.hidden);
  }
  if (!ends) {
    ++layer_;
    return start_layer();
  }
  if (!last_layer()) return;
  if (trace_) trace_({"final_norm", -1, -1, h_.data(), live_, spec.hidden, spec.hidden});
  if (!batch_.head) return;
  logits_.take(live_, spec.vocab);
  wait(Site::kLmHead, -1, h_, live_, logits_);
}

}  // namespace cutset
