// One step of a decoder for Python: what goes in and comes out of it, and the product that it waits for.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/decoder.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace {

using namespace cutset;
using namespace cutset::bindings;

nb::object copy_of(const float* data, std::size_t rows, std::size_t columns, std::size_t stride) {
  auto memory = std::make_unique<float[]>(rows * columns + 1);
  for (std::size_t r = 0; r < rows; ++r) {
    std::memcpy(memory.get() + r * columns, data + r * stride, columns * sizeof(float));
  }
  float* raw = memory.get();
  nb::capsule owner(raw, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  memory.release();
  return nb::cast(nb::ndarray<nb::numpy, float>(raw, {rows, columns}, owner));
}

// An array over the step's own memory.
template <class T>
nb::object view_of(T* data, std::size_t rows, std::size_t columns, std::shared_ptr<const void> memory) {
  auto kept = std::make_unique<std::shared_ptr<const void>>(std::move(memory));
  nb::capsule owner(kept.get(), [](void* p) noexcept { delete static_cast<std::shared_ptr<const void>*>(p); });
  kept.release();
  return nb::cast(nb::ndarray<nb::numpy, T>(data, {rows, columns}, owner));
}

Trace trace_of(std::optional<nb::callable> trace) {
  if (!trace) return {};
  return [call = std::move(*trace)](const Traced& t) {
    nb::gil_scoped_acquire acquire;
    const std::string name = t.expert < 0 ? t.name : std::string(t.name) + "." + std::to_string(t.expert);
    call(name, t.layer, copy_of(t.data, t.rows, t.columns, t.stride));
  };
}

}  // namespace

namespace cutset::bindings {

PyStep::PyStep(const PyDecoder& decoder, KvCache& cache, ThreadPool& pool, std::optional<nb::callable> trace)
    : spec_(decoder.spec()), step_(*decoder.decoder, cache, pool, trace_of(std::move(trace))) {}

void PyStep::begin(Ids1 token_ids, In2 cos, In2 sin, Ids1 row_starts, Ids1 context_lens, Ids2 block_tables,
                   Ids1 logit_rows, std::optional<Array<const bool, 2>> key_mask, std::optional<nb::list> adapters,
                   std::optional<Ids1> state_slots, std::optional<Ids1> state_sources, std::optional<Ids2> state_saves,
                   std::optional<In1> query_scales, std::optional<In2> hidden, bool head) {
  prepare(std::move(token_ids), std::move(cos), std::move(sin), std::move(row_starts), std::move(context_lens),
          std::move(block_tables), std::move(logit_rows), std::move(key_mask), std::move(adapters),
          std::move(state_slots), std::move(state_sources), std::move(state_saves), std::move(query_scales), head);
  start(std::move(hidden));
}

void PyStep::prepare(Ids1 token_ids, In2 cos, In2 sin, Ids1 row_starts, Ids1 context_lens, Ids2 block_tables,
                     Ids1 logit_rows, std::optional<Array<const bool, 2>> key_mask, std::optional<nb::list> adapters,
                     std::optional<Ids1> state_slots, std::optional<Ids1> state_sources,
                     std::optional<Ids2> state_saves, std::optional<In1> query_scales, bool head) {
  prepared_ = false;
  const std::size_t rows = token_ids.shape(0);
  const std::size_t half = spec_.rotary_dim / 2;
  const std::size_t angles = spec_.rotary_tables * rows;
  require(cos.shape(0) == angles && cos.shape(1) == half, "cos must be (rotary_tables * rows, rotary_dim / 2)");
  require(sin.shape(0) == angles && sin.shape(1) == half, "sin must be (rotary_tables * rows, rotary_dim / 2)");
  require(row_starts.shape(0) == context_lens.shape(0) + 1, "row_starts must have one element more than sequences");
  require(block_tables.shape(0) == context_lens.shape(0), "block_tables must have a row for each sequence");
  require(!query_scales || query_scales->shape(0) == rows, "query_scales must be (rows)");
  require(!key_mask || key_mask->shape(0) == context_lens.shape(0), "key_mask must be (sequences, longest context)");
  Batch batch;
  batch.rows = {rows,
                context_lens.shape(0),
                row_starts.data(),
                context_lens.data(),
                block_tables.data(),
                block_tables.shape(1),
                key_mask ? reinterpret_cast<const std::uint8_t*>(key_mask->data()) : nullptr,
                key_mask ? key_mask->shape(1) : 0};
  require(!state_slots || (state_slots->shape(0) == context_lens.shape(0) && state_sources && state_saves &&
                           state_sources->shape(0) == context_lens.shape(0) && state_saves->shape(1) == 3),
          "state_slots and state_sources must be (sequences), state_saves (saves, 3)");
  if (state_slots) {
    batch.states = {state_slots->data(), state_sources->data(), state_saves->data(), state_saves->shape(0)};
  }
  batch.token_ids = token_ids.data();
  batch.cos = cos.data();
  batch.sin = sin.data();
  batch.query_scales = query_scales ? query_scales->data() : nullptr;
  batch.logit_rows = logit_rows.data();
  batch.wanted = logit_rows.shape(0);
  batch.head = head;
  if (adapters) {
    for (const nb::handle one : *adapters) {
      batch.adapters.push_back(one.is_none() ? nullptr : nb::cast<const Adapter*>(one));
    }
  }
  std::vector<nb::ndarray<>> held = {
      nb::ndarray<>(token_ids),    nb::ndarray<>(cos),          nb::ndarray<>(sin),       nb::ndarray<>(row_starts),
      nb::ndarray<>(context_lens), nb::ndarray<>(block_tables), nb::ndarray<>(logit_rows)};
  if (key_mask) held.push_back(nb::ndarray<>(*key_mask));
  if (state_slots) {
    held.push_back(nb::ndarray<>(*state_slots));
    held.push_back(nb::ndarray<>(*state_sources));
    held.push_back(nb::ndarray<>(*state_saves));
  }
  if (query_scales) held.push_back(nb::ndarray<>(*query_scales));
  adapters_ = std::move(adapters);
  held_ = std::move(held);  // a step that fails to begin is done, and so are the arrays of the last one
  batch_ = std::move(batch);
  prepared_ = true;
}

void PyStep::start(std::optional<In2> hidden) {
  require(!hidden || (hidden->shape(0) == batch_.rows.count && hidden->shape(1) == spec_.hidden),
          "hidden must be (rows, hidden)");
  const float* data = hidden ? hidden->data() : nullptr;
  if (hidden) held_.push_back(nb::ndarray<>(*hidden));
  nb::gil_scoped_release release;
  start_at(data);
}

void PyStep::start_at(const float* hidden) {
  require(prepared_, "a step is prepared before it starts, once");
  prepared_ = false;
  batch_.hidden = hidden;
  step_.begin(batch_);
}

nb::object PyStep::waiting() const {
  const Product* product = step_.waiting();
  if (!product) return nb::none();
  return nb::make_tuple(kSites[static_cast<int>(product->site)], product->layer, product->expert,
                        view_of(product->x, product->rows, product->inputs, product->x_memory));
}

nb::object PyStep::output() const {
  const Product* product = step_.waiting();
  if (!product) return nb::none();
  return view_of(product->y, product->rows, product->outputs, product->y_memory);
}

void PyStep::resume(std::optional<In2> y) {
  const Product* product = step_.waiting();
  require(product, "the step is done; begin another");
  require(!y || (y->shape(0) == product->rows && y->shape(1) == product->outputs),
          "y must be (rows, outputs) of the site");
  nb::gil_scoped_release release;
  if (y && y->data() != product->y) {
    std::memmove(product->y, y->data(), product->rows * product->outputs * sizeof(float));
  }
  step_.resume();
}

void PyStep::run(Linears& linears) {
  nb::gil_scoped_release release;
  step_.run(linears);
}

nb::object PyStep::logits() {
  require(!step_.waiting(), "the step still waits for a product");
  require(spec_.has_head() && step_.has_logits(), "the last stage alone has logits, and only with its head");
  return copy_of(step_.logits(), step_.wanted(), spec_.vocab, spec_.vocab);
}

nb::object PyStep::hidden() {
  require(!step_.waiting(), "the step still waits for a product");
  if (spec_.has_head() && !step_.has_logits()) {
    return copy_of(step_.normed(), step_.wanted(), spec_.hidden, spec_.hidden);
  }
  require(!spec_.has_head(), "the last stage has logits");
  return copy_of(step_.hidden(), step_.rows(), spec_.hidden, spec_.hidden);
}

}  // namespace cutset::bindings

void bind_step(nb::module_& m) {
  nb::class_<PyStep>(m, "Step", "One step of a decoder, from site to site.")
      .def(nb::init<const PyDecoder&, KvCache&, ThreadPool&, std::optional<nb::callable>>(), "decoder"_a, "cache"_a,
           "pool"_a, "trace"_a = nb::none(), nb::keep_alive<1, 2>(), nb::keep_alive<1, 3>(), nb::keep_alive<1, 4>())
      .def("begin", &PyStep::begin, "token_ids"_a.noconvert(), nb::kw_only(), "cos"_a.noconvert(), "sin"_a.noconvert(),
           "row_starts"_a.noconvert(), "context_lens"_a.noconvert(), "block_tables"_a.noconvert(),
           "logit_rows"_a.noconvert(), "key_mask"_a.noconvert() = nb::none(), "adapters"_a = nb::none(),
           "state_slots"_a.noconvert() = nb::none(), "state_sources"_a.noconvert() = nb::none(),
           "state_saves"_a.noconvert() = nb::none(), "query_scales"_a.noconvert() = nb::none(),
           "hidden"_a.noconvert() = nb::none(), "head"_a = true)
      .def("prepare", &PyStep::prepare, "token_ids"_a.noconvert(), nb::kw_only(), "cos"_a.noconvert(),
           "sin"_a.noconvert(), "row_starts"_a.noconvert(), "context_lens"_a.noconvert(), "block_tables"_a.noconvert(),
           "logit_rows"_a.noconvert(), "key_mask"_a.noconvert() = nb::none(), "adapters"_a = nb::none(),
           "state_slots"_a.noconvert() = nb::none(), "state_sources"_a.noconvert() = nb::none(),
           "state_saves"_a.noconvert() = nb::none(), "query_scales"_a.noconvert() = nb::none(), "head"_a = true,
           "As `begin`, up to the hidden states, with which `start` begins.")
      .def("start", &PyStep::start, "hidden"_a.noconvert() = nb::none())
      .def("resume", &PyStep::resume, "y"_a.noconvert() = nb::none(),
           "Goes on with the product y (rows, outputs), or with what was written to `output`.")
      .def("run", &PyStep::run, "linears"_a)
      .def_prop_ro("waiting", &PyStep::waiting,
                   "(site, layer, expert, rows), or None when the step is done; the rows hold until `resume`")
      .def_prop_ro("hidden_bytes", &PyStep::hidden_bytes, "of the hidden states that a prepared step takes or gives")
      .def_prop_ro("output", &PyStep::output, "where the product may be written, (rows, outputs)")
      .def_prop_ro("logits", &PyStep::logits, "(wanted, vocab), of the last stage")
      .def_prop_ro("hidden", &PyStep::hidden,
                   "(rows, hidden), the residual stream, of the other stages; without a head (wanted, hidden), normed");
}
