// The decoder core for Python: what a step may not read must not pass here.
#include "bindings/decoder.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "core/linears.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace {

using namespace cutset;
using namespace cutset::bindings;

// parameters[name, layer] as floats of that shape, or nullptr if it isn't there.
class ParameterReader {
 public:
  ParameterReader(const nb::dict& parameters, std::vector<nb::ndarray<>>& arrays)
      : parameters_(parameters), arrays_(arrays) {}

  const float* operator()(const char* name, int layer, std::initializer_list<std::size_t> shape) {
    return static_cast<const float*>(take<nb::ndarray<const float, nb::c_contig, nb::device::cpu>>(
                                         name, layer, shape, "must be a contiguous array of float32")
                                         .data);
  }

  // The same of a matrix that may be kept in 16 bits.
  FloatView matrix(const char* name, int layer, std::initializer_list<std::size_t> shape) {
    return take<nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>>(
        name, layer, shape, "must be a contiguous array of float32, float16 or uint16 (bfloat16)");
  }

  // parameters[name, layer] where it is a grouped weight, or nullptr.
  const PackedGrouped* grouped(const char* name, int layer, nb::object& kept) {
    const nb::tuple key = nb::make_tuple(name, layer);
    if (!parameters_.contains(key) || !nb::isinstance<PackedGrouped>(parameters_[key])) return nullptr;
    ++used_;
    kept = nb::object(parameters_[key]);
    return nb::cast<const PackedGrouped*>(kept);
  }

  void finish() const {
    if (used_ != nb::len(parameters_)) throw nb::value_error("there are parameters that the decoder doesn't know");
  }

 private:
  template <class Any>
  FloatView take(const char* name, int layer, std::initializer_list<std::size_t> shape, const char* kind) {
    const nb::tuple key = nb::make_tuple(name, layer);
    if (!parameters_.contains(key)) return {};
    ++used_;
    Any array;
    if (!nb::try_cast<Any>(parameters_[key], array, false)) refuse(name, kind);
    if (array.ndim() != shape.size()) refuse(name, "has a wrong number of dimensions");
    const FloatView floats = check_floats(array, name, shape.size());
    std::size_t i = 0;
    for (const std::size_t size : shape) {
      if (array.shape(i++) != size) refuse(name, "has a wrong shape");
    }
    arrays_.push_back(nb::ndarray<>(array));
    return floats;
  }

  [[noreturn]] static void refuse(const std::string& name, const char* why) {
    throw nb::value_error((name + " " + why).c_str());
  }

  const nb::dict& parameters_;
  std::vector<nb::ndarray<>>& arrays_;
  std::size_t used_ = 0;
};

Activation activation_named(const std::string& name) {
  if (name == "silu") return Activation::kSilu;
  if (name == "gelu_tanh") return Activation::kGelu;
  if (name == "gelu_erf") return Activation::kGeluErf;
  if (name == "relu") return Activation::kRelu;
  if (name == "relu2") return Activation::kRelu2;
  require(name == "clamped", "activation must be silu, gelu_tanh, clamped, gelu_erf, relu or relu2");
  return Activation::kClamped;
}

Mixer mixer_named(const std::string& name) {
  if (name == "attention") return Mixer::kAttention;
  if (name == "conv") return Mixer::kConv;
  require(name == "delta", "mixer must be attention, conv or delta");
  return Mixer::kDelta;
}

void make_decoder(PyDecoder* self, std::size_t vocab, std::size_t hidden, std::size_t layers, std::size_t heads,
                  std::size_t kv_heads, std::size_t head_dim, std::size_t intermediate, float norm_eps,
                  const nb::dict& parameters, ThreadPool& pool, std::vector<std::size_t> windows,
                  const std::vector<bool>& sparse, std::size_t experts, std::size_t top_k, bool normalise,
                  std::size_t expert_intermediate, std::size_t shared, std::size_t shared_intermediate,
                  const std::string& activation, float activation_limit, float activation_alpha, std::size_t rotary_dim,
                  bool rotary_interleaved, std::size_t rotary_tables, std::vector<int> rotary_table,
                  float attention_scale, float attention_softcap, float embedding_scale, float residual_scale,
                  float logit_scale, float logit_softcap, bool whole_norms, const std::string& mixer,
                  const std::vector<bool>& recurrent, std::size_t taps, std::size_t key_heads, std::size_t value_heads,
                  std::size_t key_dim, std::size_t value_dim, bool gated_attention,
                  const std::vector<std::size_t>& layer_kv_heads, const std::vector<std::size_t>& layer_head_dims,
                  std::vector<std::size_t> intermediates, std::vector<std::size_t> kv_layers,
                  const std::vector<bool>& equal_kv, std::vector<std::size_t> rotary_dims, std::size_t layer_vocab,
                  std::size_t layer_width, float layer_embedding_scale, float layer_product_scale,
                  float layer_input_scale, float router_scale, std::size_t first, std::size_t stop) {
  DecoderSpec spec = {vocab,
                      hidden,
                      layers,
                      {heads, kv_heads, head_dim},
                      intermediate,
                      norm_eps,
                      std::move(windows),
                      sparse,
                      experts,
                      top_k,
                      normalise,
                      expert_intermediate,
                      shared,
                      shared_intermediate,
                      activation_named(activation),
                      activation_limit,
                      activation_alpha,
                      rotary_dim,
                      rotary_interleaved,
                      rotary_tables,
                      std::move(rotary_table),
                      attention_scale,
                      attention_softcap,
                      embedding_scale,
                      residual_scale,
                      logit_scale,
                      logit_softcap,
                      {mixer_named(mixer), taps, key_heads, value_heads, key_dim, value_dim},
                      recurrent,
                      gated_attention,
                      {},
                      std::move(intermediates),
                      std::move(kv_layers),
                      equal_kv,
                      std::move(rotary_dims),
                      {layer_vocab, layer_width, layer_embedding_scale, layer_product_scale, layer_input_scale},
                      router_scale,
                      first,
                      stop};
  require(layer_kv_heads.size() == layer_head_dims.size(), "layer_kv_heads and layer_head_dims must go together");
  for (std::size_t l = 0; l < layer_kv_heads.size(); ++l) {
    spec.layer_heads.push_back({heads, layer_kv_heads[l], layer_head_dims[l]});
  }
  spec.check();
  PyDecoder made;
  ParameterReader read(parameters, made.arrays);
  Parameters found;
  found.whole_norms = whole_norms;
  found.embedding_codes = read.grouped("embedding", -1, made.embedding_codes);
  if (!found.embedding_codes) found.embedding = read.matrix("embedding", -1, {vocab, hidden});
  found.final_norm = read("final_norm", -1, {hidden});
  const std::size_t told = spec.stage_layers() * layer_width;
  found.layer_embedding = read.matrix("layer_embedding", -1, {layer_vocab, told});
  found.layer_product = read.matrix("layer_product", -1, {told, hidden});
  found.layer_product_norm = read("layer_product_norm", -1, {layer_width});
  for (int l = 0; l < static_cast<int>(layers); ++l) {
    const auto number = static_cast<std::size_t>(l);
    const HeadShape& shape = spec.heads_of(number);
    LayerParameters layer;
    layer.attention_norm = read("attention_norm", l, {hidden});
    layer.attention_output_norm = read("attention_output_norm", l, {hidden});
    layer.mlp_norm = read("mlp_norm", l, {hidden});
    layer.mlp_output_norm = read("mlp_output_norm", l, {hidden});
    layer.qkv_bias = read("qkv_bias", l, {spec.qkv_outputs(number)});
    layer.o_bias = read("o_bias", l, {hidden});
    layer.q_norm = read("q_norm", l, {whole_norms ? shape.q_size() : shape.head_dim});
    layer.k_norm = read("k_norm", l, {whole_norms ? shape.kv_size() : shape.head_dim});
    layer.v_norm = read("v_norm", l, {shape.head_dim});
    layer.layer_gate = read.matrix("layer_gate", l, {layer_width, hidden});
    layer.layer_out = read.matrix("layer_out", l, {hidden, layer_width});
    layer.layer_output_norm = read("layer_output_norm", l, {hidden});
    layer.layer_scale = read("layer_scale", l, {1});
    layer.gate_up_bias = read("gate_up_bias", l, {2 * spec.width(number, -1)});
    layer.down_bias = read("down_bias", l, {hidden});
    layer.sinks = read("sinks", l, {heads});
    layer.router = read.matrix("router", l, {experts, hidden});
    layer.router_norm = read("router_norm", l, {hidden});
    layer.expert_norm = read("expert_norm", l, {hidden});
    layer.expert_output_norm = read("expert_output_norm", l, {hidden});
    layer.shared_output_norm = read("shared_output_norm", l, {hidden});
    layer.expert_scale = read("expert_scale", l, {experts});
    layer.router_bias = read("router_bias", l, {experts});
    layer.expert_gate_up_bias = read("expert_gate_up_bias", l, {experts, 2 * expert_intermediate});
    layer.expert_down_bias = read("expert_down_bias", l, {experts, hidden});
    layer.shared_gate = read.matrix("shared_gate", l, {shared, hidden});
    const Recurrence& recurrence = spec.recurrence;
    layer.recurrent.in_proj_bias = read("in_proj_bias", l, {recurrence.inputs(hidden)});
    layer.recurrent.conv = read("conv", l, {taps, recurrence.convolved(hidden)});
    layer.recurrent.conv_bias = read("conv_bias", l, {recurrence.convolved(hidden)});
    layer.recurrent.out_proj_bias = read("out_proj_bias", l, {hidden});
    layer.recurrent.decay = read("decay", l, {value_heads});
    layer.recurrent.decay_bias = read("decay_bias", l, {value_heads});
    layer.recurrent.delta_gain = read("delta_gain", l, {value_dim});
    found.layers.push_back(layer);
  }
  read.finish();
  made.decoder = std::make_unique<Decoder>(spec, std::move(found), pool);
  new (self) PyDecoder(std::move(made));
}

void put_low_rank(Adapter& self, const std::string& site, int layer, int expert, In2 down, In2 up, std::size_t first,
                  float scale, std::optional<In1> scales) {
  require(!scales || scales->shape(0) == (up.shape(0) + kThinPanel - 1) / kThinPanel,
          "scales must have one element for 16 outputs");
  require(down.shape(0) >= 1 && down.shape(0) == up.shape(1), "down must be (rank, inputs), up (outputs, rank)");
  const std::pair<const char*, ToldProduct> told[] = {
      {"layer_product", ToldProduct::kAll}, {"layer_gate", ToldProduct::kGate}, {"layer_out", ToldProduct::kOut}};
  for (const auto& [name, product] : told) {
    if (site != name) continue;
    return self.put(product, layer, down.data(), up.data(), down.shape(0), down.shape(1), first, up.shape(0), scale,
                    scales ? scales->data() : nullptr);
  }
  self.put(site_named(site), layer, expert, down.data(), up.data(), down.shape(0), down.shape(1), first, up.shape(0),
           scale, scales ? scales->data() : nullptr);
}

void put_f32(LocalLinears& self, const std::string& site, int layer, int expert, const PackedF32& linear) {
  self.put(site_named(site), layer, expert, linear);
}

void put_i8(LocalLinears& self, const std::string& site, int layer, int expert, const PackedI8& linear, int bits) {
  self.put(site_named(site), layer, expert, linear, bits);
}

void put_parts(LocalLinears& self, const std::string& site, int layer, int expert, const nb::tuple& linears, int bits) {
  std::vector<LocalLinears::Part> parts;
  for (const nb::handle one : linears) {
    if (nb::isinstance<PackedGrouped>(one)) {
      parts.emplace_back(nb::cast<const PackedGrouped*>(one));
    } else {
      parts.emplace_back(nb::cast<const PackedF32*>(one));
    }
  }
  self.put(site_named(site), layer, expert, parts, bits);
}

}  // namespace

void bind_decoder(nb::module_& m) {
  nb::class_<PyDecoder>(m, "Decoder", "A decoder without its products; parameters are {(name, layer): float32 array}.")
      .def("__init__", &make_decoder, nb::kw_only(), "vocab"_a, "hidden"_a, "layers"_a, "heads"_a, "kv_heads"_a,
           "head_dim"_a, "intermediate"_a, "norm_eps"_a, "parameters"_a, "pool"_a,
           "windows"_a = std::vector<std::size_t>(), "sparse"_a = std::vector<bool>(), "experts"_a = 0, "top_k"_a = 0,
           "normalise"_a = false, "expert_intermediate"_a = 0, "shared"_a = 0, "shared_intermediate"_a = 0,
           "activation"_a = "silu", "activation_limit"_a = 0.0f, "activation_alpha"_a = 0.0f, "rotary_dim"_a = 0,
           "rotary_interleaved"_a = false, "rotary_tables"_a = 1, "rotary_table"_a = std::vector<int>(),
           "attention_scale"_a = 0.0f, "attention_softcap"_a = 0.0f, "embedding_scale"_a = 1.0f,
           "residual_scale"_a = 1.0f, "logit_scale"_a = 1.0f, "logit_softcap"_a = 0.0f, "whole_norms"_a = false,
           "mixer"_a = "attention", "recurrent"_a = std::vector<bool>(), "taps"_a = 1, "key_heads"_a = 0,
           "value_heads"_a = 0, "key_dim"_a = 0, "value_dim"_a = 0, "gated_attention"_a = false,
           "layer_kv_heads"_a = std::vector<std::size_t>(), "layer_head_dims"_a = std::vector<std::size_t>(),
           "intermediates"_a = std::vector<std::size_t>(), "kv_layers"_a = std::vector<std::size_t>(),
           "equal_kv"_a = std::vector<bool>(), "rotary_dims"_a = std::vector<std::size_t>(), "layer_vocab"_a = 0,
           "layer_width"_a = 0, "layer_embedding_scale"_a = 1.0f, "layer_product_scale"_a = 1.0f,
           "layer_input_scale"_a = 1.0f, "router_scale"_a = 1.0f, "first"_a = 0, "stop"_a = 0)
      .def_prop_rw(
          "data_oblivious", [](const PyDecoder& self) { return self.decoder->data_oblivious(); },
          [](PyDecoder& self, bool wanted) { self.decoder->set_data_oblivious(wanted); },
          "No address that is read depends on which tokens are looked up; to be set before there are steps");

  nb::class_<KvCache>(m, "KvCache", "Keys and values of all layers in blocks of tokens.")
      .def(
          "__init__",
          [](KvCache* self, const PyDecoder& decoder, std::size_t blocks, std::size_t block_size, std::size_t states,
             bool int8) {
            new (self)
                KvCache(decoder.spec(), blocks, block_size, states, int8 ? CacheType::kInt8 : CacheType::kFloat32);
          },
          "decoder"_a, "blocks"_a, "block_size"_a, "states"_a = 0, "int8"_a = false)
      .def(
          "block",
          [](KvCache& self, std::size_t number) {
            if (number >= self.blocks()) throw nb::index_error("there is no such block");
            return nb::ndarray<nb::numpy, std::uint8_t, nb::ndim<1>>(self.block(number), {self.block_bytes()},
                                                                     nb::find(&self));
          },
          "number"_a, nb::sig("def block(self, number: int) -> NDArray[np.uint8]"),
          "The bytes of a block's keys and values in all layers, where they lie")
      .def_prop_ro("blocks", &KvCache::blocks)
      .def_prop_ro("block_size", &KvCache::block_size)
      .def_prop_ro("nbytes", &KvCache::bytes);

  nb::class_<Linears>(m, "Linears");
  nb::class_<LocalLinears, Linears>(m, "LocalLinears", "The products of a decoder, computed here.")
      .def(
          "__init__",
          [](LocalLinears* self, const PyDecoder& decoder, ThreadPool& pool) {
            new (self) LocalLinears(decoder.spec(), pool);
          },
          "decoder"_a, "pool"_a, nb::keep_alive<1, 3>())
      .def("put", &put_f32, "site"_a, "layer"_a, "expert"_a, "linear"_a, nb::keep_alive<1, 5>())
      .def("put", &put_i8, "site"_a, "layer"_a, "expert"_a, "linear"_a, "bits"_a = 8, nb::keep_alive<1, 5>())
      .def("put", &put_parts, "site"_a, "layer"_a, "expert"_a, "linears"_a, "bits"_a = 12, nb::keep_alive<1, 5>(),
           "LinearGrouped or LinearF32, which give the site's outputs one after the other")
      .def_prop_ro("nbytes", &LocalLinears::bytes, "of all packed weights");

  nb::class_<Adapter>(m, "Adapter", "Low-rank additions to the products of a decoder.")
      .def(
          "__init__", [](Adapter* self, const PyDecoder& decoder) { new (self) Adapter(decoder.spec()); }, "decoder"_a)
      .def("put", &put_low_rank, "site"_a, "layer"_a, "expert"_a, "down"_a.noconvert(), "up"_a.noconvert(), "first"_a,
           "scale"_a, "scales"_a.noconvert() = nb::none());
}
