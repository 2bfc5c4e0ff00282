// Incremental inference for Python: arguments are checked here, the work is in core/sparse.
#include "bindings/sparse.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/common.h"
#include "core/sparse.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace {

using namespace cutset;
using namespace cutset::bindings;

using Sides = std::array<std::int64_t, 8>;  // as SparseWindow

constexpr const char* kActivationNames[kActivations] = {"none", "relu", "clamp",     "leaky_relu",  "sigmoid",  "tanh",
                                                        "silu", "gelu", "gelu_tanh", "hardsigmoid", "hardswish"};
constexpr const char* kCombineNames[kCombines] = {"add", "sub", "mul", "div", "max", "min"};

template <class Kind, std::size_t Count>
Kind named(const std::string& name, const char* const (&names)[Count], const char* what) {
  for (std::size_t i = 0; i < Count; ++i) {
    if (name == names[i]) return static_cast<Kind>(i);
  }
  refuse(std::string(what) + " is not known: " + name.substr(0, 40));
}

SparseWindow window_of(const Sides& sides) {
  constexpr std::int64_t kMost = 1 << 20;
  for (std::size_t i = 0; i < sides.size(); ++i) {
    const bool padding = i == 4 || i == 5;
    if (sides[i] < (padding ? 0 : 1) || sides[i] > kMost)
      refuse("a window's sides must be from 1 (padding: 0) to 2^20");
  }
  const auto side = [&](std::size_t i) { return static_cast<std::size_t>(sides[i]); };
  return {side(0), side(1), side(2), side(3), side(4), side(5), side(6), side(7)};
}

std::uint8_t* mask_of(const AnyOutput& mask, const SparseMap& map) {
  check_array<std::uint8_t>(mask, "changed", 2, "uint8");
  check_shape(mask, "changed", map.rows(), map.columns());
  return static_cast<std::uint8_t*>(mask.data());
}

float threshold_of(double threshold) {
  if (!(threshold >= 0) || !std::isfinite(threshold)) refuse("threshold must be 0 or above");
  return static_cast<float>(threshold);
}

// What every layer is told of where it writes.
struct Target {
  SparseMap* out;
  AnyArray positions;
  AnyOutput changed;
  double threshold;
  std::size_t first_channel;
  std::string activation;
  double parameter;

  SparseUpdate update() const {
    check_array<std::int64_t>(positions, "positions", 1, "int64");
    const auto* places = static_cast<const std::int64_t*>(positions.data());
    const auto end = static_cast<std::int64_t>(out->rows() * out->columns());
    std::int64_t last = -1;  // each once, so that no two threads write to one
    for (std::size_t i = 0; i < positions.size(); ++i) {
      if (places[i] <= last || places[i] >= end) refuse("positions must rise and lie within the map");
      last = places[i];
    }
    if (first_channel > out->channels()) refuse("first_channel lies beyond the map's channels");
    return {*out,
            first_channel,
            places,
            positions.size(),
            threshold_of(threshold),
            named<SparseActivation>(activation, kActivationNames, "the activation"),
            static_cast<float>(parameter),
            mask_of(changed, *out)};
  }
};

void make_conv(SparseConv* self, const AnyArray& weight, const std::optional<AnyArray>& bias, std::size_t groups,
               const Sides& sides) {
  check_array<float>(weight, "weight", 4, "float32");
  const SparseWindow window = window_of(sides);
  if (weight.shape(1) != window.rows || weight.shape(2) != window.columns) {
    refuse("weight must have shape (outputs, rows, columns, channels / groups), not " + shape_of(weight));
  }
  if (bias) {
    check_array<float>(*bias, "bias", 1, "float32");
    if (bias->shape(0) != weight.shape(0)) refuse("bias must have as many elements as there are outputs");
  }
  const auto* b = bias ? static_cast<const float*>(bias->data()) : nullptr;
  const std::size_t channels = checked_product(weight.shape(3), groups);
  nb::gil_scoped_release release;
  new (self) SparseConv(static_cast<const float*>(weight.data()), b, weight.shape(0), channels, groups, window);
}

std::size_t conv(const SparseConv& self, const SparseMap& x, const Target& to, ThreadPool* pool) {
  const SparseUpdate update = to.update();
  nb::gil_scoped_release release;
  return self.update(pool_or_alone(pool), x, update);
}

std::size_t pooled(const SparseMap& x, const Sides& sides, bool mean, std::size_t divisor, const Target& to,
                   ThreadPool* pool) {
  const SparseUpdate update = to.update();
  const SparseWindow window = window_of(sides);
  nb::gil_scoped_release release;
  return sparse_pool(pool_or_alone(pool), x, window, mean, divisor, update);
}

const float* channels_of(const AnyArray& array, const char* name, const SparseMap& x) {
  check_array<float>(array, name, 1, "float32");
  if (array.shape(0) != x.channels()) refuse(std::string(name) + " must have an element for each channel");
  return static_cast<const float*>(array.data());
}

std::size_t affine(const SparseMap& x, const AnyArray& scale, const AnyArray& shift, const Target& to,
                   ThreadPool* pool) {
  const SparseUpdate update = to.update();
  const float *times = channels_of(scale, "scale", x), *plus = channels_of(shift, "shift", x);
  nb::gil_scoped_release release;
  return sparse_affine(pool_or_alone(pool), x, times, plus, update);
}

std::size_t copy(const SparseMap& x, std::size_t first, std::size_t channels, const Target& to, ThreadPool* pool) {
  const SparseUpdate update = to.update();
  nb::gil_scoped_release release;
  return sparse_copy(pool_or_alone(pool), x, first, channels, update);
}

std::size_t combine(const std::string& kind, const SparseMap& a, const SparseMap& b, const Target& to,
                    ThreadPool* pool) {
  const SparseUpdate update = to.update();
  const auto known = named<Combine>(kind, kCombineNames, "the kind");
  nb::gil_scoped_release release;
  return sparse_combine(pool_or_alone(pool), known, a, b, update);
}

std::size_t resize(const SparseMap& x, const AnyArray& row_places, const AnyArray& row_shares,
                   const AnyArray& column_places, const AnyArray& column_shares, const Target& to, ThreadPool* pool) {
  const SparseUpdate update = to.update();
  const auto check = [](const AnyArray& places, const AnyArray& shares, std::size_t size) {
    check_array<std::int64_t>(places, "places", 2, "int64");
    check_shape(places, "places", 2, size);
    check_array<float>(shares, "shares", 1, "float32");
    if (shares.shape(0) != size) refuse("there must be a share for each place");
  };
  check(row_places, row_shares, to.out->rows());
  check(column_places, column_shares, to.out->columns());
  nb::gil_scoped_release release;
  return sparse_resize(pool_or_alone(pool), x, static_cast<const std::int64_t*>(row_places.data()),
                       static_cast<const float*>(row_shares.data()),
                       static_cast<const std::int64_t*>(column_places.data()),
                       static_cast<const float*>(column_shares.data()), update);
}

std::size_t spread(const SparseMap& x, std::size_t down, std::size_t across, bool apart, const Target& to,
                   ThreadPool* pool) {
  const SparseUpdate update = to.update();
  nb::gil_scoped_release release;
  return sparse_spread(pool_or_alone(pool), x, down, across, apart, update);
}

nb::object reached(const std::vector<AnyArray>& masks, const Sides& sides, std::size_t rows, std::size_t columns) {
  constexpr std::size_t kMost = std::size_t{1} << 20;
  if (masks.empty()) refuse("there must be a mask");
  if (rows > kMost || columns > kMost) refuse("an output has at most 2^20 rows and columns");
  const SparseWindow window = window_of(sides);
  std::vector<const std::uint8_t*> marked;
  for (const AnyArray& mask : masks) {
    check_array<std::uint8_t>(mask, "mask", 2, "uint8");
    check_shape(mask, "mask", masks[0].shape(0), masks[0].shape(1));
    marked.push_back(static_cast<const std::uint8_t*>(mask.data()));
  }
  const std::vector<std::int64_t> found =
      sparse_reached(marked, {masks[0].shape(0), masks[0].shape(1)}, window, {rows, columns});
  auto made = new_array<std::int64_t>({found.size()});
  std::copy(found.begin(), found.end(), made.data());
  return nb::cast(made);
}

std::size_t take(SparseMap& self, const AnyArray& fresh, const AnyOutput& changed, double threshold,
                 const std::optional<AnyArray>& among, ThreadPool* pool) {
  const bool bytes = fresh.dtype() == nb::dtype<std::uint8_t>();
  if (bytes) {
    check_array<std::uint8_t>(fresh, "fresh", 3, "uint8 or float32");
  } else {
    check_array<float>(fresh, "fresh", 3, "uint8 or float32");
  }
  if (fresh.shape(0) != self.channels() || fresh.shape(1) != self.rows() || fresh.shape(2) != self.columns()) {
    refuse("fresh must have shape (channels, rows, columns) of the map, not " + shape_of(fresh));
  }
  const std::uint8_t* where = nullptr;
  if (among) {
    check_array<std::uint8_t>(*among, "among", 2, "uint8");
    check_shape(*among, "among", self.rows(), self.columns());
    where = static_cast<const std::uint8_t*>(among->data());
  }
  std::uint8_t* mask = mask_of(changed, self);
  const float limit = threshold_of(threshold);
  nb::gil_scoped_release release;
  if (bytes)
    return sparse_take(pool_or_alone(pool), static_cast<const std::uint8_t*>(fresh.data()), where, limit, self, mask);
  return sparse_take(pool_or_alone(pool), static_cast<const float*>(fresh.data()), where, limit, self, mask);
}

// The map itself, without its border: it changes with the next update.
nb::object values(nb::handle self) {
  auto& map = nb::cast<SparseMap&>(self);
  const std::size_t shape[] = {map.rows(), map.columns(), map.channels()};
  const std::int64_t strides[] = {map.pitch(), static_cast<std::int64_t>(map.channels()), 1};
  return nb::cast(nb::ndarray<nb::numpy, float>(map.at(0, 0), 3, shape, self, strides));
}

}  // namespace

void bind_sparse(nb::module_& m) {
  nb::class_<SparseMap>(m, "SparseMap",
                        "A feature map (rows, columns, channels) with a border of zeros, zeros at first.")
      .def(nb::init<std::size_t, std::size_t, std::size_t, std::size_t>(), "rows"_a, "columns"_a, "channels"_a,
           "border"_a = 0)
      .def_prop_ro("values", &values, "(rows, columns, channels) float32, the map's own memory")
      .def_prop_ro("border", &SparseMap::border)
      .def_prop_ro("nbytes", &SparseMap::bytes)
      .def("take", &take, "fresh"_a, "changed"_a, "threshold"_a = 0.0, "among"_a.none() = nb::none(),
           "pool"_a.none() = nb::none(),
           "brings the map up to `fresh`, (channels, rows, columns) of uint8 or float32; see SparseTarget");

  nb::class_<Target>(m, "SparseTarget", "Where a layer writes: positions of a map, and the mask of what it replaced.")
      .def(
          "__init__",
          [](Target* self, SparseMap* out, AnyArray positions, AnyOutput changed, double threshold,
             std::size_t first_channel, std::string activation, double parameter) {
            new (self) Target{out,           std::move(positions),  std::move(changed), threshold,
                              first_channel, std::move(activation), parameter};
          },
          "out"_a, "positions"_a, "changed"_a, "threshold"_a = 0.0, "first_channel"_a = 0, "activation"_a = "none",
          "parameter"_a = 0.0, nb::keep_alive<1, 2>());

  nb::class_<SparseConv>(m, "SparseConv", "A convolution at some positions of a map.")
      .def("__init__", &make_conv, "weight"_a, "bias"_a.none(), "groups"_a, "window"_a)
      .def("update", &conv, "x"_a, "to"_a, "pool"_a.none() = nb::none(), "how many positions were replaced")
      .def_prop_ro("outputs", &SparseConv::outputs)
      .def_prop_ro("nbytes", &SparseConv::bytes);

  m.def("sparse_pool", &pooled, "x"_a, "window"_a, "mean"_a, "divisor"_a, "to"_a, "pool"_a.none() = nb::none());
  m.def("sparse_affine", &affine, "x"_a, "scale"_a, "shift"_a, "to"_a, "pool"_a.none() = nb::none());
  m.def("sparse_copy", &copy, "x"_a, "first"_a, "channels"_a, "to"_a, "pool"_a.none() = nb::none());
  m.def("sparse_combine", &combine, "kind"_a, "a"_a, "b"_a, "to"_a, "pool"_a.none() = nb::none());
  m.def("sparse_resize", &resize, "x"_a, "row_places"_a, "row_shares"_a, "column_places"_a, "column_shares"_a, "to"_a,
        "pool"_a.none() = nb::none());
  m.def("sparse_reached", &reached, "masks"_a, "window"_a, "rows"_a, "columns"_a);
  m.def("sparse_spread", &spread, "x"_a, "down"_a, "across"_a, "apart"_a, "to"_a, "pool"_a.none() = nb::none());
}
