// The field's kernels for Python; cutset/kernels/reference_field.py documents them and is their twin.
#include "bindings/field.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <optional>

#include "bindings/arrays.h"
#include "bindings/common.h"
#include "core/field.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace {

using namespace cutset;
using namespace cutset::bindings;

const std::uint32_t* residues_in(const AnyArray& array, const char* name, std::size_t rows, std::size_t columns) {
  check_array<std::uint32_t>(array, name, 2, "uint32");
  check_shape(array, name, rows, columns);
  return static_cast<const std::uint32_t*>(array.data());
}

template <class T>
const T* vector_in(const AnyArray& array, const char* name, std::size_t count, const char* dtype) {
  check_array<T>(array, name, 1, dtype);
  if (array.shape(0) != count) refuse(std::string(name) + " must have " + std::to_string(count) + " elements");
  return static_cast<const T*>(array.data());
}

nb::object mask_py(const AnyArray& q, const AnyArray& r, std::optional<AnyOutput> out, ThreadPool* pool) {
  check_array<std::int16_t>(q, "q", 2, "int16");
  const std::uint32_t* residues = residues_in(r, "r", q.shape(0), q.shape(1));
  const Result<std::uint32_t> result(out, q.shape(0), q.shape(1), "uint32");
  {
    nb::gil_scoped_release release;
    mask(pool_or_alone(pool), static_cast<const std::int16_t*>(q.data()), residues, q.size(), result.data);
  }
  return result.object;
}

template <class Integer>
nb::object dots_of(const AnyArray& x, const AnyArray& v, ThreadPool* pool, const char* dtype) {
  check_array<Integer>(x, "x", 2, dtype);
  if (v.ndim() != 2) refuse("v must have 2 dimensions");
  const std::uint32_t* vectors = residues_in(v, "v", v.shape(0), x.shape(1));
  const Result<std::uint32_t> result(std::nullopt, x.shape(0), v.shape(0), "uint32");
  {
    nb::gil_scoped_release release;
    dots(pool_or_alone(pool), static_cast<const Integer*>(x.data()), x.shape(0), x.shape(1), vectors, v.shape(0),
         result.data);
  }
  return result.object;
}

nb::object dots_py(const AnyArray& x, const AnyArray& v, ThreadPool* pool) {
  if (x.dtype() == nb::dtype<std::int16_t>()) return dots_of<std::int16_t>(x, v, pool, "int16");
  if (x.dtype() == nb::dtype<std::int32_t>()) return dots_of<std::int32_t>(x, v, pool, "int32");
  return dots_of<std::uint32_t>(x, v, pool, "int16, int32 or uint32");
}

nb::object project_py(const AnyArray& weight, const AnyArray& s, ThreadPool* pool) {
  check_array<std::int8_t>(weight, "weight", 2, "int8");
  if (s.ndim() != 2) refuse("s must have 2 dimensions");
  const std::uint32_t* secrets = residues_in(s, "s", s.shape(0), weight.shape(0));
  const Result<std::uint32_t> result(std::nullopt, s.shape(0), weight.shape(1), "uint32");
  {
    nb::gil_scoped_release release;
    project(pool_or_alone(pool), static_cast<const std::int8_t*>(weight.data()), weight.shape(0), weight.shape(1),
            secrets, s.shape(0), result.data);
  }
  return result.object;
}

nb::tuple settle_py(const AnyArray& reply, const AnyArray& row_scales, const AnyArray& output_scales,
                    const AnyOutput& out, std::optional<AnyArray> pad, std::optional<AnyArray> bounds, int top,
                    std::optional<AnyArray> secrets, std::optional<AnyArray> expected, ThreadPool* pool) {
  if (pad) {
    check_array<std::uint32_t>(reply, "reply", 2, "uint32 where there is a pad");
  } else {
    check_array<std::int32_t>(reply, "reply", 2, "int32 where there is no pad");
  }
  const std::size_t rows = reply.shape(0), outputs = reply.shape(1);
  SettleJob job{};
  job.rows = rows;
  job.outputs = outputs;
  job.reply = static_cast<const std::uint32_t*>(reply.data());
  if (pad) job.pad = residues_in(*pad, "pad", rows, outputs);
  job.row_scales = vector_in<float>(row_scales, "row_scales", rows, "float32");
  job.output_scales = vector_in<float>(output_scales, "output_scales", outputs, "float32");
  if (bounds) job.bounds = vector_in<std::int32_t>(*bounds, "bounds", outputs, "int32");
  job.top = top;
  if (secrets.has_value() != expected.has_value()) refuse("secrets and expected go together");
  if (secrets) {
    if (secrets->ndim() != 2 || secrets->shape(0) < 1 || secrets->shape(0) > kMostChecks) {
      refuse("secrets must have one row or two");
    }
    job.checks = secrets->shape(0);
    job.secrets = residues_in(*secrets, "secrets", job.checks, outputs);
    job.expected = residues_in(*expected, "expected", rows, job.checks);
  }
  check_array<float>(out, "out", 2, "float32");
  check_shape(out, "out", rows, outputs);
  check_apart(reply, out);
  job.out = static_cast<float*>(out.data());
  Verdict verdict{};
  {
    nb::gil_scoped_release release;
    verdict = settle(pool_or_alone(pool), job);
  }
  if (verdict.code == Verdict::kGood) return nb::make_tuple(0, -1, -1);
  const bool whole_row = verdict.code == Verdict::kCheckFailed;
  return nb::make_tuple(verdict.code, verdict.row, whole_row ? nb::int_(-1) : nb::int_(verdict.column));
}

}  // namespace

void bind_field(nb::module_& m) {
  m.def("mask", &mask_py, "q"_a, "r"_a, "out"_a.none() = nb::none(), "pool"_a.none() = nb::none(),
        "(q + r) mod P of int16 q and residues r (rows, depth)");
  m.def("dots", &dots_py, "x"_a, "v"_a, "pool"_a.none() = nb::none(),
        "x . v^T mod P (rows, vectors) of integers x (rows, depth) and residues v (vectors, depth)");
  m.def("project", &project_py, "weight"_a, "s"_a, "pool"_a.none() = nb::none(),
        "s . weight mod P (vectors, depth) of residues s (vectors, outputs)");
  m.def("settle", &settle_py, "reply"_a, "row_scales"_a, "output_scales"_a, "out"_a, nb::kw_only(),
        "pad"_a.none() = nb::none(), "bounds"_a.none() = nb::none(), "top"_a = 0, "secrets"_a.none() = nb::none(),
        "expected"_a.none() = nb::none(), "pool"_a.none() = nb::none(),
        "(code, row, column) of the first fault, and the site's output in `out` if there is none");
}
