#include "core/recurrent.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "core/split.h"
#include "kernels/table.h"

namespace cutset {

namespace {

constexpr std::size_t kChannels = 256;  // of a task
constexpr float kL2Eps = 1e-6f;         // of the norms of queries and keys under the delta rule

void require(bool right, const char* message) {
  if (!right) throw std::invalid_argument(message);
}

// body(task) for each, in this thread alone where there is little to do.
template <class Body>
void each_task(ThreadPool& pool, std::size_t tasks, std::size_t work, const Body& body) {
  constexpr std::size_t kTooSmall = std::size_t{1} << 14;
  if (work < kTooSmall || pool.threads() == 1) {
    for (std::size_t task = 0; task < tasks; ++task) body(task);
    return;
  }
  pool.run(tasks, [&](std::size_t task) noexcept { body(task); });
}

// The rows of one sequence, and where its state comes from and goes.
struct Run {
  std::size_t first, count;  // rows in the batch
  std::size_t before;        // tokens
  const float* source;       // nullptr: zeros
  float* slot;
  std::size_t sequence;
};

class Layer {
 public:
  Layer(ThreadPool& pool, const DecoderSpec& spec, const RecurrentParameters& parameters, const Rows& rows,
        const States& states, StateCache& cache, std::size_t place, RecurrentScratch& scratch)
      : pool_(pool),
        spec_(spec),
        r_(spec.recurrence),
        p_(parameters),
        rows_(rows),
        states_(states),
        cache_(cache),
        place_(place),
        scratch_(scratch),
        convolved_(r_.convolved(spec.hidden)) {
    for (std::size_t s = 0; s < rows.sequences; ++s) {
      const auto first = static_cast<std::size_t>(rows.row_starts[s]);
      const auto count = static_cast<std::size_t>(rows.row_starts[s + 1]) - first;
      if (!count) continue;
      const float* source =
          states.sources[s] < 0 ? nullptr : cache.at(place, static_cast<std::size_t>(states.sources[s]));
      runs_.push_back({first, count, rows.position(s, first), source,
                       cache.at(place, static_cast<std::size_t>(states.slots[s])), s});
    }
    if (scratch.zeros.size() < convolved_) scratch.zeros.assign(convolved_, 0.0f);
  }

  void conv(float* x, float* mixed) {
    const std::size_t size = spec_.hidden;
    const std::size_t width = 3 * size;
    const GlueKernels& glue = kernels().glue;
    each_task(pool_, rows_.count, rows_.count * size, [&](std::size_t row) {
      float* b = x + row * width;
      glue.multiply(b, b + 2 * size, size, b);
    });
    convolve(x, width, mixed, size);
    each_task(pool_, rows_.count, rows_.count * size, [&](std::size_t row) {
      glue.multiply(mixed + row * size, x + row * width + size, size, mixed + row * size);
    });
  }

  void delta(float* x, float* mixed) {
    const std::size_t width = r_.inputs(spec_.hidden);
    const std::size_t heads = r_.value_heads;
    float* qkv = static_cast<float*>(scratch_.rows.take(rows_.count * convolved_ * sizeof(float)));
    float* gates = static_cast<float*>(scratch_.gates.take(rows_.count * 2 * heads * sizeof(float)));
    convolve(x, width, qkv, convolved_);
    set_gains();
    each_task(pool_, rows_.count, rows_.count * convolved_, [&](std::size_t row) {
      float* own = qkv + row * convolved_;
      const std::size_t keys = r_.key_heads * r_.key_dim;
      const float eps = kL2Eps / static_cast<float>(r_.key_dim);
      const GlueKernels& glue = kernels().glue;
      glue.sigmoid_mul(own, own, convolved_);
      glue.rms_norm(own, scratch_.gains.data(), eps, r_.key_heads, r_.key_dim, own);
      glue.rms_norm(own + keys, scratch_.gains.data() + r_.key_dim, eps, r_.key_heads, r_.key_dim, own + keys);
      gate(x + row * width + convolved_ + heads * r_.value_dim, gates + row * 2 * heads);
    });
    const std::size_t matrix = r_.key_dim * r_.value_dim;
    each_task(pool_, runs_.size() * heads, rows_.count * heads * matrix,
              [&](std::size_t task) { head(runs_[task / heads], task % heads, qkv, gates, mixed); });
    each_task(pool_, rows_.count, rows_.count * heads * r_.value_dim, [&](std::size_t row) {
      const std::size_t size = heads * r_.value_dim;
      float* out = mixed + row * size;
      float* z = x + row * width + convolved_;
      const GlueKernels& glue = kernels().glue;
      glue.rms_norm(out, p_.delta_gain, spec_.norm_eps, heads, r_.value_dim, out);
      glue.sigmoid_mul(z, z, size);
      glue.multiply(out, z, size, out);
    });
  }

 private:
  // body(rows of this step, slot) for the copies of a sequence's state.
  template <class Body>
  void each_save(const Run& run, const Body& body) const {
    for (std::size_t i = 0; i < states_.save_count; ++i) {
      const std::int32_t* save = states_.saves + 3 * i;
      if (static_cast<std::size_t>(save[0]) != run.sequence) continue;
      body(static_cast<std::size_t>(save[1]) - run.before, cache_.at(place_, static_cast<std::size_t>(save[2])));
    }
  }

  // out: the causal convolution of the first `convolved` columns of z, of which rows lie `stride` floats apart.
  void convolve(const float* z, std::size_t stride, float* out, std::size_t out_stride) {
    const std::size_t parts = (convolved_ + kChannels - 1) / kChannels;
    each_task(pool_, runs_.size() * parts, rows_.count * convolved_ * r_.taps, [&](std::size_t task) {
      const std::size_t begin = task % parts * kChannels;
      channels(runs_[task / parts], begin, std::min(convolved_ - begin, kChannels), z, stride, out, out_stride);
    });
  }

  void channels(const Run& run, std::size_t begin, std::size_t count, const float* z, std::size_t stride, float* out,
                std::size_t out_stride) const {
    static thread_local std::vector<const float*> window;
    const std::size_t history = r_.taps - 1;
    window.resize(r_.taps);
    // The row that is `i` - `history` after the first one of this step.
    const auto at = [&](std::size_t i) {
      if (i >= history) return z + (run.first + i - history) * stride + begin;
      return run.source ? run.source + i * convolved_ + begin : scratch_.zeros.data() + begin;
    };
    for (std::size_t row = 0; row < run.count; ++row) {
      for (std::size_t j = 0; j < r_.taps; ++j) window[j] = at(row + j);
      kernels().glue.short_conv(window.data(), r_.taps, p_.conv + begin, convolved_,
                                p_.conv_bias ? p_.conv_bias + begin : nullptr, count,
                                out + (run.first + row) * out_stride + begin);
    }
    const auto keep = [&](std::size_t rows, float* state) {  // downwards, for a state may go where it comes from
      for (std::size_t i = 0; i < history; ++i) {
        std::memmove(state + i * convolved_ + begin, at(rows + i), count * sizeof(float));
      }
    };
    each_save(run, keep);
    keep(run.count, run.slot);
  }

  void set_gains() {
    const float root = 1.0f / std::sqrt(static_cast<float>(r_.key_dim));
    scratch_.gains.assign(2 * r_.key_dim, root);
    std::fill_n(scratch_.gains.begin(), r_.key_dim, root * root);  // queries are scaled as scores of attention are
  }

  // [b | a] to [how much is written | what is kept], of each head.
  void gate(const float* given, float* out) const {
    const std::size_t heads = r_.value_heads;
    for (std::size_t h = 0; h < heads; ++h) {
      const float step = given[heads + h] + p_.decay_bias[h];
      const float soft = std::max(step, 0.0f) + std::log1p(std::exp(-std::abs(step)));
      out[h] = 1.0f / (1.0f + std::exp(-given[h]));
      out[heads + h] = std::exp(-std::exp(p_.decay[h]) * soft);
    }
  }

  void head(const Run& run, std::size_t h, const float* qkv, const float* gates, float* mixed) const {
    const std::size_t heads = r_.value_heads;
    const std::size_t matrix = r_.key_dim * r_.value_dim;
    const std::size_t offset = (r_.taps - 1) * convolved_ + h * matrix;
    float* state = run.slot + offset;
    if (!run.source) {
      std::memset(state, 0, matrix * sizeof(float));
    } else if (run.source != run.slot) {
      std::memcpy(state, run.source + offset, matrix * sizeof(float));
    }
    const std::size_t keys = r_.key_heads * r_.key_dim;
    const std::size_t key = h / (heads / r_.key_heads) * r_.key_dim;
    for (std::size_t done = 0; done < run.count;) {  // to the next row after which the state is saved
      std::size_t end = run.count;
      each_save(run, [&](std::size_t rows, float*) {
        if (rows > done) end = std::min(end, rows);
      });
      const std::size_t row = run.first + done;
      const float* own = qkv + row * convolved_;
      const float* gate = gates + row * 2 * heads + h;
      DeltaRuleTask task{};
      task.state = state;
      task.q = own + key;
      task.k = own + keys + key;
      task.v = own + 2 * keys + h * r_.value_dim;
      task.stride = convolved_;
      task.kept = gate + heads;
      task.beta = gate;
      task.gate_stride = 2 * heads;
      task.rows = end - done;
      task.key_dim = r_.key_dim;
      task.value_dim = r_.value_dim;
      task.out = mixed + (row * heads + h) * r_.value_dim;
      task.out_stride = heads * r_.value_dim;
      kernels().glue.delta_rule(task);
      each_save(run, [&](std::size_t rows, float* saved) {
        if (rows == end) std::memcpy(saved + offset, state, matrix * sizeof(float));
      });
      done = end;
    }
  }

  ThreadPool& pool_;
  const DecoderSpec& spec_;
  const Recurrence& r_;
  const RecurrentParameters& p_;
  const Rows& rows_;
  const States& states_;
  StateCache& cache_;
  std::size_t place_;
  RecurrentScratch& scratch_;
  std::size_t convolved_;
  std::vector<Run> runs_;
};

}  // namespace

StateCache::StateCache(const DecoderSpec& spec, std::size_t slots)
    : layers_(spec.recurrent_before(spec.end())), floats_(0), slots_(0) {
  if (!layers_) return;
  floats_ = spec.recurrence.state(spec.hidden);
  slots_ = slots;
  const std::size_t bytes = checked_product(checked_product(layers_, floats_), sizeof(float));
  memory_ = Buffer(std::max(checked_product(slots, bytes), sizeof(float)));
}

bool StateCache::fits(const DecoderSpec& spec) const {
  const std::size_t layers = spec.recurrent_before(spec.end());
  return layers == layers_ && (!layers || floats_ == spec.recurrence.state(spec.hidden));
}

void StateCache::check(const Rows& rows, const States& states) const {
  if (!layers_) return;
  require(states.slots && states.sources, "this decoder has states of sequences; say where they lie");
  std::vector<std::size_t> written(slots_, 0);  // by which sequence, from 1 on
  const auto write = [&](std::int32_t slot, std::size_t sequence) {
    require(slot >= 0 && static_cast<std::size_t>(slot) < slots_, "a state has a slot that isn't there");
    std::size_t& by = written[static_cast<std::size_t>(slot)];
    require(!by, "two states are written to one slot");
    by = sequence + 1;
  };
  for (std::size_t s = 0; s < rows.sequences; ++s) write(states.slots[s], s);
  for (std::size_t i = 0; i < states.save_count; ++i) {
    const std::int32_t* save = states.saves + 3 * i;
    require(save[0] >= 0 && static_cast<std::size_t>(save[0]) < rows.sequences, "a state is saved of no sequence");
    const auto s = static_cast<std::size_t>(save[0]);
    const std::size_t before = rows.position(s, static_cast<std::size_t>(rows.row_starts[s]));
    require(save[1] > 0 && static_cast<std::size_t>(save[1]) > before && save[1] <= rows.context_lens[s],
            "a state is saved after a token that isn't in this step");
    write(save[2], rows.sequences);
  }
  for (std::size_t s = 0; s < rows.sequences; ++s) {
    const std::int32_t source = states.sources[s];
    if (rows.row_starts[s] == rows.row_starts[s + 1]) continue;
    const bool starts = rows.position(s, static_cast<std::size_t>(rows.row_starts[s])) == 0;
    require(source >= -1 && source < static_cast<std::int64_t>(slots_), "a state has a source that isn't there");
    require(starts == (source < 0), "a sequence starts without a state, and goes on with one");
    const std::size_t by = source < 0 ? 0 : written[static_cast<std::size_t>(source)];
    require(!by || by == s + 1, "a state is read that this step writes");
    require(!by || source == states.slots[s], "a state is read that this step writes");
  }
}

void recur(ThreadPool& pool, const DecoderSpec& spec, const RecurrentParameters& parameters, const Rows& rows,
           const States& states, StateCache& cache, std::size_t place, float* x, float* mixed,
           RecurrentScratch& scratch) {
  Layer layer(pool, spec, parameters, rows, states, cache, place, scratch);
  if (spec.recurrence.kind == Mixer::kConv) return layer.conv(x, mixed);
  layer.delta(x, mixed);
}

}  // namespace cutset
