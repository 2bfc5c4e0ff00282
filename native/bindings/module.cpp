// The Python module cutset.kernels._native.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/linears.h"
#include "kernels/table.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace {

using In1 = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using In2 = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Out2 = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void require(bool right, const char* message) {
  if (!right) throw std::invalid_argument(message);
}

void rms_norm(In2 x, In1 gain, float eps, Out2 out) {
  require(gain.shape(0) == x.shape(1), "gain must have as many elements as x has columns");
  require(out.shape(0) == x.shape(0) && out.shape(1) == x.shape(1), "out must have the shape of x");
  nb::gil_scoped_release release;
  cutset::kernels().glue.rms_norm(x.data(), gain.data(), eps, x.shape(0), x.shape(1), out.data());
}

}  // namespace

NB_MODULE(_native, m) {
  m.def("isa", [] { return std::string(cutset::kernels().isa); });
  m.def("available_isas", [] {
    std::vector<std::string> names;
    for (const char* const* name = cutset::available_isas(); *name; ++name) names.emplace_back(*name);
    return names;
  });
  m.def(
      "select_isa", [](const std::string& name) { return cutset::select_isa(name.c_str()); }, "name"_a);
  bind_linears(m);
  m.def("rms_norm", &rms_norm, "x"_a.noconvert(), "gain"_a.noconvert(), "eps"_a, "out"_a.noconvert());
}
