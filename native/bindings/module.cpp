// The Python module cutset.kernels._native.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "bindings/decoder.h"
#include "bindings/delta.h"
#include "bindings/field.h"
#include "bindings/glue.h"
#include "bindings/grouped.h"
#include "bindings/hop.h"
#include "bindings/linears.h"
#include "bindings/remote.h"
#include "bindings/server.h"
#include "bindings/sparse.h"
#include "kernels/table.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

NB_MODULE(_native, m) {
  m.def("isa", [] { return std::string(cutset::kernels().isa); });
  m.def("available_isas", [] {
    std::vector<std::string> names;
    for (const char* const* name = cutset::available_isas(); *name; ++name) names.emplace_back(*name);
    return names;
  });
  m.def("select_isa", [](const std::string& name) { return cutset::select_isa(name.c_str()); }, "name"_a);
  bind_linears(m);
  bind_grouped(m);
  bind_glue(m);
  bind_field(m);
  bind_decoder(m);
  bind_step(m);
  bind_delta(m);
  bind_remote(m);
  bind_server(m);
  bind_sparse(m);
  bind_hop(m);
}
