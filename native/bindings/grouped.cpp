// Linear layers of grouped weights for Python: arguments are checked here, the work is in core/grouped.cpp.
#include "bindings/grouped.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/checks.h"
#include "bindings/common.h"
#include "core/grouped.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace {

using namespace cutset;
using namespace cutset::bindings;

// values (outputs, blocks) and steps (outputs, groups) or None.
using PyFactors = std::tuple<AnyArray, std::optional<AnyArray>>;

GivenFactors factors_of(const PyFactors& given, std::size_t outputs, std::size_t groups) {
  const auto& [values, steps] = given;
  GivenFactors factors;
  if (values.dtype() == nb::dtype<float>()) {
    factors.kind = FactorKind::kFloat;
    check_array<float>(values, "values", 2, "float32");
  } else {
    factors.kind = FactorKind::kHalf;
    check_array<std::uint16_t>(values, "values", 2, "float32, or uint16 with the bits of float16");
  }
  check_shape(values, "values", outputs, values.shape(1));
  factors.values = values.data();
  factors.blocks = values.shape(1);
  if (!steps) return factors;
  const bool is_signed = steps->dtype() == nb::dtype<std::int8_t>();
  if (is_signed) {
    check_array<std::int8_t>(*steps, "steps", 2, "int8 or uint8");
  } else {
    check_array<std::uint8_t>(*steps, "steps", 2, "int8 or uint8");
  }
  check_shape(*steps, "steps", outputs, groups);
  factors.step_kind = is_signed ? StepKind::kSigned : StepKind::kUnsigned;
  factors.steps = static_cast<const std::uint8_t*>(steps->data());
  return factors;
}

void make_grouped(PackedGrouped* self, const std::vector<AnyArray>& codes, int bits, std::size_t span,
                  const std::vector<PyFactors>& scales, const std::optional<std::vector<PyFactors>>& minima,
                  const std::optional<std::vector<AnyArray>>& zeros, int zero, const std::optional<AnyArray>& levels,
                  const std::optional<AnyArray>& order, ThreadPool* pool) {
  const std::size_t count = codes.size();
  if (count == 0 || scales.size() != count || (minima && minima->size() != count) || (zeros && zeros->size() != count))
    refuse("give as many scales, minima and zeros as codes");
  if (span == 0) refuse("a group must have columns");
  if (codes[0].ndim() != 2) refuse("codes must have 2 dimensions");
  const std::size_t depth = codes[0].shape(1), groups = (round_up(depth, kSlab) + span - 1) / span;
  std::vector<GroupedPart> parts;
  for (std::size_t i = 0; i < count; ++i) {
    check_array<std::uint8_t>(codes[i], "codes", 2, "uint8");
    const std::size_t outputs = codes[i].shape(0);
    check_shape(codes[i], "codes", outputs, depth);
    GroupedPart part{static_cast<const std::uint8_t*>(codes[i].data()),
                     outputs,
                     factors_of(scales[i], outputs, groups),
                     {},
                     nullptr};
    if (minima) part.minima = factors_of((*minima)[i], outputs, groups);
    if (zeros) {
      check_array<std::uint8_t>((*zeros)[i], "zeros", 2, "uint8");
      check_shape((*zeros)[i], "zeros", outputs, groups);
      part.zeros = static_cast<const std::uint8_t*>((*zeros)[i].data());
    }
    parts.push_back(part);
  }
  GroupedShape shape{bits, depth, span, zero, nullptr, nullptr};
  if (levels) {
    check_array<std::int8_t>(*levels, "levels", 1, "int8");
    if (levels->shape(0) != 16) refuse("there must be 16 levels");
    shape.levels = static_cast<const std::int8_t*>(levels->data());
  }
  if (order) {
    check_array<std::int32_t>(*order, "order", 1, "int32");
    if (order->shape(0) != depth) refuse("order must have as many elements as codes have columns");
    shape.order = static_cast<const std::int32_t*>(order->data());
  }
  nb::gil_scoped_release release;
  new (self) PackedGrouped(shape, parts, pool_or_alone(pool));
}

void call_grouped(const PackedGrouped& self, const AnyArray& x, const AnyOutput& out, int bits, ThreadPool* pool) {
  const float* in = rows_of(x, self.depth());
  float* y = output_of(out, x, self.outputs());
  nb::gil_scoped_release release;
  self.forward(pool_or_alone(pool), in, x.shape(0), bits, y, self.outputs(), workspace());
}

nb::object weights_of(const PackedGrouped& self, Ids1 outputs) {
  auto rows = new_array<float>({outputs.shape(0), self.depth()});
  for (std::size_t i = 0; i < outputs.shape(0); ++i) {
    require(outputs.data()[i] >= 0 && static_cast<std::size_t>(outputs.data()[i]) < self.outputs(),
            "there is no such output");
    self.weights(static_cast<std::size_t>(outputs.data()[i]), rows.data() + i * self.depth());
  }
  return nb::cast(rows);
}

nb::tuple quantize_groups_py(const AnyArray& weight, int bits, std::size_t group, bool minima, ThreadPool* pool) {
  check_array<float>(weight, "weight", 2, "float32");
  if (group == 0 || weight.shape(1) % group != 0) refuse("groups must divide the columns");
  const std::size_t outputs = weight.shape(0), depth = weight.shape(1);
  auto codes = new_array<std::uint8_t>({outputs, depth});
  auto scales = new_array<float>({outputs, depth / group});
  auto least = new_array<float>({minima ? outputs : 0, depth / group});
  {
    nb::gil_scoped_release release;
    quantize_groups(pool_or_alone(pool), static_cast<const float*>(weight.data()), outputs, depth, bits, group,
                    codes.data(), scales.data(), minima ? least.data() : nullptr);
  }
  return nb::make_tuple(codes, scales, minima ? nb::cast(least) : nb::none());
}

}  // namespace

void bind_grouped(nb::module_& m) {
  nb::class_<PackedGrouped>(m, "LinearGrouped",
                            "y = x . W^T with weights of few bits and a scale for each group of columns.")
      .def("__init__", &make_grouped, "codes"_a, "bits"_a, "span"_a, "scales"_a, "minima"_a.none() = nb::none(),
           "zeros"_a.none() = nb::none(), "zero"_a = 0, "levels"_a.none() = nb::none(), "order"_a.none() = nb::none(),
           "pool"_a.none() = nb::none())
      .def("__call__", &call_grouped, "x"_a, "out"_a, "bits"_a = 12, "pool"_a.none() = nb::none(),
           "x (rows, depth), out (rows, outputs), both float32; bits of the activations, 8 to 12")
      .def("weights", &weights_of, "outputs"_a.noconvert(), "the weights of some outputs, float32 (n, depth)")
      .def_prop_ro("bits", &PackedGrouped::bits)
      .def_prop_ro("outputs", &PackedGrouped::outputs)
      .def_prop_ro("depth", &PackedGrouped::depth)
      .def_prop_ro("nbytes", &PackedGrouped::bytes);

  m.def("quantize_groups", &quantize_groups_py, "weight"_a, "bits"_a, "group"_a, "minima"_a,
        "pool"_a.none() = nb::none(),
        "(codes, scales, minima or None) of weight (outputs, depth), rounded to the nearest");
}
