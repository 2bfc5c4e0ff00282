// The kernels between two linears, one by one, as tests and measurements call them.
#include "bindings/glue.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "bindings/checks.h"
#include "core/adapter.h"
#include "core/attention.h"
#include "kernels/table.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace cutset::bindings {

namespace {

using Released = nb::call_guard<nb::gil_scoped_release>;

template <class A, class B>
void require_same_shape(const A& a, const B& b, const char* message) {
  require(a.ndim() == b.ndim(), message);
  for (std::size_t i = 0; i < a.ndim(); ++i) require(a.shape(i) == b.shape(i), message);
}

template <class Ids>
void require_between(const Ids& ids, std::int64_t low, std::int64_t end, const char* message) {
  const std::int32_t* data = ids.data();
  require(std::all_of(data, data + ids.size(), [=](std::int32_t id) { return id >= low && id < end; }), message);
}

void embedding(In2 table, Ids1 ids, Out2 out) {
  require(out.shape(0) == ids.shape(0) && out.shape(1) == table.shape(1), "out must be (ids, columns of table)");
  require_between(ids, 0, static_cast<std::int64_t>(table.shape(0)), "an id lies outside of the table");
  kernels().glue.embedding(table.data(), ids.data(), ids.shape(0), table.shape(1), out.data());
}

void scan(In2 table, Ids1 ids, Out2 out) {
  require(out.shape(0) == ids.shape(0) && out.shape(1) == table.shape(1), "out must be (ids, columns of table)");
  require_between(ids, 0, static_cast<std::int64_t>(table.shape(0)), "an id lies outside of the table");
  const std::size_t bytes = table.shape(1) * sizeof(float);
  std::memset(out.data(), 0, out.shape(0) * bytes);
  kernels().glue.scan({static_cast<const std::uint8_t*>(static_cast<const void*>(table.data())), table.shape(0), bytes,
                       bytes, 0, ids.data(), ids.shape(0), static_cast<std::uint8_t*>(static_cast<void*>(out.data())),
                       bytes});
}

void rms_norm(In2 x, In1 gain, float eps, Out2 out) {
  require(gain.shape(0) == x.shape(1), "gain must have as many elements as x has columns");
  require_same_shape(out, x, "out must have the shape of x");
  kernels().glue.rms_norm(x.data(), gain.data(), eps, x.shape(0), x.shape(1), out.data());
}

void add_rms_norm(Out2 x, In2 delta, In1 gain, float eps, Out2 out) {
  require(gain.shape(0) == x.shape(1), "gain must have as many elements as x has columns");
  require_same_shape(delta, x, "delta must have the shape of x");
  require_same_shape(out, x, "out must have the shape of x");
  kernels().glue.add_rms_norm(x.data(), delta.data(), gain.data(), eps, x.shape(0), x.shape(1), out.data());
}

void add_bias(Out2 x, In1 bias) {
  require(bias.shape(0) == x.shape(1), "bias must have as many elements as x has columns");
  kernels().glue.add_bias(x.data(), bias.data(), x.shape(0), x.shape(1));
}

void scaled_add(Out1 out, float weight, In1 x) {
  require_same_shape(out, x, "out must have the shape of x");
  kernels().glue.scaled_add(out.data(), weight, x.data(), x.shape(0));
}

void mix_heads(Out2 x, std::size_t head_dim) {
  require(head_dim > 0 && x.shape(1) % head_dim == 0, "x must have whole heads of head_dim columns");
  kernels().glue.mix_heads(x.data(), x.shape(0) * (x.shape(1) / head_dim), head_dim);
}

void apply_rope(Out2 x, In2 cos, In2 sin, std::size_t heads, std::size_t head_dim, bool interleaved) {
  const std::size_t rotary_dim = 2 * cos.shape(1);
  if (!head_dim) head_dim = rotary_dim;
  require(rotary_dim <= head_dim, "cos must have at most head_dim / 2 columns");
  require_same_shape(cos, sin, "cos and sin must have one shape");
  require(cos.shape(0) == x.shape(0), "cos must have a row for each row of x");
  require(heads * head_dim <= x.shape(1), "x must have at least heads * head_dim columns");
  kernels().glue.apply_rope(x.data(), x.shape(1), cos.data(), sin.data(), x.shape(0), heads, head_dim, rotary_dim,
                            interleaved);
}

void gelu_mul(In2 x, Out2 out) {
  require(x.shape(0) == out.shape(0) && x.shape(1) == 2 * out.shape(1), "x must be (rows, 2 * columns of out)");
  kernels().glue.gelu_mul(x.data(), out.shape(0), out.shape(1), out.data());
}

void gelu_erf_mul(In2 x, Out2 out) {
  require(x.shape(0) == out.shape(0) && x.shape(1) == 2 * out.shape(1), "x must be (rows, 2 * columns of out)");
  kernels().glue.gelu_erf_mul(x.data(), out.shape(0), out.shape(1), out.data());
}

void relu_mul(In2 x, Out2 out, bool squared) {
  require(x.shape(0) == out.shape(0) && x.shape(1) == 2 * out.shape(1), "x must be (rows, 2 * columns of out)");
  kernels().glue.relu_mul(x.data(), squared, out.shape(0), out.shape(1), out.data());
}

void clamped_mul(In2 x, float limit, float alpha, Out2 out) {
  require(x.shape(0) == out.shape(0) && x.shape(1) == 2 * out.shape(1), "x must be (rows, 2 * columns of out)");
  kernels().glue.clamped_mul(x.data(), limit, alpha, out.shape(0), out.shape(1), out.data());
}

void scale(Out1 x, float factor) { kernels().glue.scale(x.data(), factor, x.shape(0)); }

void softcap(Out1 x, float cap) {
  require(cap > 0.0f, "cap must be above 0");
  kernels().glue.softcap(x.data(), cap, x.shape(0));
}

void silu_mul(In2 x, Out2 out) {
  require(x.shape(0) == out.shape(0) && x.shape(1) == 2 * out.shape(1), "x must be (rows, 2 * columns of out)");
  kernels().glue.silu_mul(x.data(), out.shape(0), out.shape(1), out.data());
}

void moe_route(In2 logits, bool normalise, Array<std::int32_t, 2> ids, Out2 weights) {
  const std::size_t top_k = ids.shape(1);
  require_same_shape(ids, weights, "ids and weights must have one shape");
  require(ids.shape(0) == logits.shape(0), "ids must have a row for each row of logits");
  require(top_k >= 1 && top_k <= logits.shape(1), "top_k must be between 1 and the number of experts");
  std::vector<float> scratch(logits.shape(1));
  kernels().glue.moe_route(logits.data(), logits.shape(0), logits.shape(1), top_k, normalise, ids.data(),
                           weights.data(), scratch.data());
}

void sigmoid_mul(Out1 x, In1 gate) {
  require_same_shape(x, gate, "gate must have the shape of x");
  kernels().glue.sigmoid_mul(x.data(), gate.data(), x.shape(0));
}

void multiply(In1 a, In1 b, Out1 out) {
  require_same_shape(a, b, "a and b must have one shape");
  require_same_shape(a, out, "out must have the shape of a");
  kernels().glue.multiply(a.data(), b.data(), a.shape(0), out.data());
}

// x: the last rows, (taps, cols), the oldest first
void short_conv(In2 x, In2 weight, std::optional<In1> bias, Out1 out) {
  require_same_shape(x, weight, "x and weight must be (taps, columns)");
  require(out.shape(0) == x.shape(1) && (!bias || bias->shape(0) == x.shape(1)), "bias and out must be (columns)");
  std::vector<const float*> rows;
  for (std::size_t j = 0; j < x.shape(0); ++j) rows.push_back(x.data() + j * x.shape(1));
  kernels().glue.short_conv(rows.data(), rows.size(), weight.data(), weight.shape(1), bias ? bias->data() : nullptr,
                            x.shape(1), out.data());
}

void thin_product(In2 x, In2 weight, Out2 out) {
  const std::size_t rows = x.shape(0);
  const std::size_t outputs = weight.shape(0);
  require(x.shape(1) == weight.shape(1), "x must be (rows, columns of weight)");
  require(out.shape(0) == rows && out.shape(1) == outputs, "out must be (rows, rows of weight)");
  const ThinMatrix matrix(weight.data(), outputs, weight.shape(1));
  std::vector<float> padded(rows * matrix.padded());
  std::vector<ThinDot> dots;
  for (std::size_t p = 0; p < matrix.panels(); ++p) {
    dots.push_back({x.data(), matrix.panel(p), padded.data() + p * kThinPanel});
  }
  kernels().glue.thin_dots(
      {dots.data(), dots.size(), rows, matrix.depth(), matrix.kind(), matrix.depth(), matrix.padded()});
  for (std::size_t r = 0; r < rows; ++r) {
    std::copy_n(padded.data() + r * matrix.padded(), outputs, out.data() + r * outputs);
  }
}

// y (rows, outputs) += scale * x . weight^T for the outputs of the weight from `first` on
void thin_add(In2 x, In2 weight, std::size_t first, float scale, Out2 y) {
  require(x.shape(1) == weight.shape(1), "x must be (rows, columns of weight)");
  require(y.shape(0) == x.shape(0), "y must have as many rows as x");
  require(first < weight.shape(0) && y.shape(1) <= weight.shape(0) - first, "the weight has fewer outputs");
  const ThinMatrix matrix(weight.data(), weight.shape(0), weight.shape(1));
  kernels().glue.thin_add({x.data(), x.shape(1), x.shape(0), x.shape(1), matrix.panel(first / kThinPanel),
                           matrix.kind(), first % kThinPanel, y.shape(1), scale, nullptr, y.data(), y.shape(1)});
}

void delta_rule(Out2 state, In2 qkv, In1 kept, In1 beta, Out2 out) {
  const std::size_t rows = qkv.shape(0);
  const std::size_t keys = state.shape(0);
  const std::size_t values = state.shape(1);
  require(qkv.shape(1) == 2 * keys + values, "qkv must be (rows, twice the rows and once the columns of state)");
  require(out.shape(0) == rows && out.shape(1) == values, "out must be (rows, columns of state)");
  require(kept.shape(0) == rows && beta.shape(0) == rows, "kept and beta must be (rows)");
  DeltaRuleTask task{};
  task.state = state.data();
  task.q = qkv.data();
  task.k = qkv.data() + keys;
  task.v = qkv.data() + 2 * keys;
  task.stride = 2 * keys + values;
  task.kept = kept.data();
  task.beta = beta.data();
  task.gate_stride = 1;
  task.rows = rows;
  task.key_dim = keys;
  task.value_dim = values;
  task.out = out.data();
  task.out_stride = values;
  kernels().glue.delta_rule(task);
}

void exponential(In1 x, Out1 out) {
  require_same_shape(out, x, "out must have the shape of x");
  kernels().glue.exp(x.data(), x.shape(0), out.data());
}

CacheType cache_type(bool int8) { return int8 ? CacheType::kInt8 : CacheType::kFloat32; }

// Keys and values of one layer as kernels/glue.h lays them out, flat, and the heads of a packed qkv row.
struct Paged {
  HeadShape shape;
  LayerCache cache;
  std::size_t blocks;
  Rows rows;

  Paged(std::size_t heads, std::size_t kv_heads, std::size_t head_dim, std::size_t block_size, Out2 keys, Out2 values,
        Ids1 row_starts, Ids1 context_lens, Ids2 block_tables, bool int8)
      : shape{heads, kv_heads, head_dim},
        cache{keys.data(), values.data(), block_size, keys.shape(1), values.shape(1), cache_type(int8)},
        blocks(keys.shape(0)) {
    require(kv_heads >= 1 && heads % kv_heads == 0 && heads > 0, "kv_heads must divide heads");
    require(head_dim >= 1 && head_dim <= 1024, "head_dim must be between 1 and 1024");
    require(block_size >= 1 && block_size % kPackTokens == 0, "block_size must be a multiple of 16");
    require(keys.shape(1) == LayerCache::key_floats(shape, block_size, cache.type),
            "keys: a wrong number of floats a block");
    require(values.shape(0) == blocks && values.shape(1) == LayerCache::value_floats(shape, block_size, cache.type),
            "values: a wrong number of blocks or of floats a block");
    rows.sequences = context_lens.shape(0);
    require(row_starts.shape(0) == rows.sequences + 1, "row_starts must have one element more than context_lens");
    require(block_tables.shape(0) == rows.sequences, "block_tables must have a row for each sequence");
    rows.row_starts = row_starts.data();
    rows.context_lens = context_lens.data();
    rows.block_tables = block_tables.data();
    rows.table_width = block_tables.shape(1);
  }

  void check(In2 qkv) {
    require(qkv.shape(1) == shape.qkv_size(), "qkv must be (rows, (heads + 2 * kv_heads) * head_dim)");
    rows.count = qkv.shape(0);
    check_rows(rows, blocks, cache.block_size);
  }
};

std::pair<std::size_t, std::size_t> cache_floats(std::size_t kv_heads, std::size_t head_dim, std::size_t block_size,
                                                 bool int8) {
  const HeadShape shape = {kv_heads, kv_heads, head_dim};
  return {LayerCache::key_floats(shape, block_size, cache_type(int8)),
          LayerCache::value_floats(shape, block_size, cache_type(int8))};
}

void append(In2 qkv, std::size_t heads, std::size_t kv_heads, std::size_t head_dim, std::size_t block_size, Out2 keys,
            Out2 values, Ids1 row_starts, Ids1 context_lens, Ids2 block_tables, bool int8) {
  Paged paged(heads, kv_heads, head_dim, block_size, keys, values, row_starts, context_lens, block_tables, int8);
  paged.check(qkv);
  const std::vector<Slot> slots = cache_slots(paged.rows, block_size);
  cutset::append(paged.shape, paged.cache, slots.data(), qkv.data(), 0, paged.rows.count);
}

void attention(In2 qkv, std::size_t heads, std::size_t kv_heads, std::size_t head_dim, std::size_t block_size,
               Out2 keys, Out2 values, Ids1 row_starts, Ids1 context_lens, Ids2 block_tables, float scale, Out2 out,
               std::size_t window, std::optional<Array<const bool, 2>> key_mask, std::optional<Ids1> wanted,
               ThreadPool* pool, float softcap, std::optional<In1> sinks, bool int8) {
  Paged paged(heads, kv_heads, head_dim, block_size, keys, values, row_starts, context_lens, block_tables, int8);
  require(scale > 0.0f, "scale must be above 0");
  require(!sinks || sinks->shape(0) == heads, "sinks must be (heads)");
  if (key_mask) {
    require(key_mask->shape(0) == paged.rows.sequences, "key_mask must be (sequences, longest context)");
    paged.rows.key_mask = reinterpret_cast<const std::uint8_t*>(key_mask->data());
    paged.rows.mask_width = key_mask->shape(1);
  }
  paged.check(qkv);
  if (wanted) require_between(*wanted, 0, static_cast<std::int64_t>(paged.rows.count), "a wanted row isn't there");
  require(out.shape(0) == (wanted ? wanted->shape(0) : paged.rows.count) && out.shape(1) == paged.shape.q_size(),
          "out must be (rows, heads * head_dim)");
  const std::vector<Span> spans =
      wanted ? wanted_spans(paged.rows, wanted->data(), wanted->shape(0)) : all_spans(paged.rows);
  ThreadPool alone(1);
  attend(pool ? *pool : alone, {paged.shape, window, scale, softcap, sinks ? sinks->data() : nullptr}, paged.rows,
         paged.cache, spans, qkv.data(), out.data());
}

}  // namespace

}  // namespace cutset::bindings

void bind_glue(nb::module_& m) {
  using namespace cutset::bindings;
  m.def("scan", &scan, "table"_a.noconvert(), "ids"_a.noconvert(), "out"_a.noconvert(), Released());
  m.def("embedding", &embedding, "table"_a.noconvert(), "ids"_a.noconvert(), "out"_a.noconvert(), Released());
  m.def("rms_norm", &rms_norm, "x"_a.noconvert(), "gain"_a.noconvert(), "eps"_a, "out"_a.noconvert(), Released());
  m.def("add_rms_norm", &add_rms_norm, "x"_a.noconvert(), "delta"_a.noconvert(), "gain"_a.noconvert(), "eps"_a,
        "out"_a.noconvert(), Released());
  m.def("add_bias", &add_bias, "x"_a.noconvert(), "bias"_a.noconvert(), Released());
  m.def("scaled_add", &scaled_add, "out"_a.noconvert(), "weight"_a, "x"_a.noconvert(), Released());
  m.def("apply_rope", &apply_rope, "x"_a.noconvert(), "cos"_a.noconvert(), "sin"_a.noconvert(), "heads"_a,
        "head_dim"_a = 0, "interleaved"_a = false, Released());
  m.def("mix_heads", &mix_heads, "x"_a.noconvert(), "head_dim"_a, Released());
  m.def("gelu_mul", &gelu_mul, "x"_a.noconvert(), "out"_a.noconvert(), Released());
  m.def("gelu_erf_mul", &gelu_erf_mul, "x"_a.noconvert(), "out"_a.noconvert(), Released());
  m.def("relu_mul", &relu_mul, "x"_a.noconvert(), "out"_a.noconvert(), nb::kw_only(), "squared"_a, Released());
  m.def("clamped_mul", &clamped_mul, "x"_a.noconvert(), "limit"_a, "alpha"_a, "out"_a.noconvert(), Released());
  m.def("scale", &scale, "x"_a.noconvert(), "factor"_a, Released());
  m.def("softcap", &softcap, "x"_a.noconvert(), "cap"_a, Released());
  m.def("silu_mul", &silu_mul, "x"_a.noconvert(), "out"_a.noconvert(), Released());
  m.def("moe_route", &moe_route, "logits"_a.noconvert(), nb::kw_only(), "normalise"_a, "ids"_a.noconvert(),
        "weights"_a.noconvert(), Released());
  m.def("sigmoid_mul", &sigmoid_mul, "x"_a.noconvert(), "gate"_a.noconvert(), Released());
  m.def("multiply", &multiply, "a"_a.noconvert(), "b"_a.noconvert(), "out"_a.noconvert(), Released());
  m.def("short_conv", &short_conv, "x"_a.noconvert(), "weight"_a.noconvert(), "bias"_a.noconvert().none(),
        "out"_a.noconvert(), Released());
  m.def("thin_product", &thin_product, "x"_a.noconvert(), "weight"_a.noconvert(), "out"_a.noconvert(), Released());
  m.def("thin_add", &thin_add, "x"_a.noconvert(), "weight"_a.noconvert(), "first"_a, "scale"_a, "y"_a.noconvert(),
        Released());
  m.def("delta_rule", &delta_rule, "state"_a.noconvert(), "qkv"_a.noconvert(), nb::kw_only(), "kept"_a.noconvert(),
        "beta"_a.noconvert(), "out"_a.noconvert(), Released());
  m.def("exp", &exponential, "x"_a.noconvert(), "out"_a.noconvert(), Released());
  m.def("cache_floats", &cache_floats, "kv_heads"_a, "head_dim"_a, "block_size"_a, "int8"_a = false);
  m.def("append", &append, "qkv"_a.noconvert(), nb::kw_only(), "heads"_a, "kv_heads"_a, "head_dim"_a, "block_size"_a,
        "keys"_a.noconvert(), "values"_a.noconvert(), "row_starts"_a.noconvert(), "context_lens"_a.noconvert(),
        "block_tables"_a.noconvert(), "int8"_a = false, Released());
  m.def("attention", &attention, "qkv"_a.noconvert(), nb::kw_only(), "heads"_a, "kv_heads"_a, "head_dim"_a,
        "block_size"_a, "keys"_a.noconvert(), "values"_a.noconvert(), "row_starts"_a.noconvert(),
        "context_lens"_a.noconvert(), "block_tables"_a.noconvert(), "scale"_a, "out"_a.noconvert(), "window"_a = 0,
        "key_mask"_a.noconvert() = nb::none(), "wanted"_a.noconvert() = nb::none(), "pool"_a.none() = nb::none(),
        "softcap"_a = 0.0f, "sinks"_a.noconvert() = nb::none(), "int8"_a = false, Released());
}
