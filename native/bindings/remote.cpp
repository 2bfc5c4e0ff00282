// The client's fast path for Python; native/offload/client.h documents it.
#include "bindings/remote.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/common.h"
#include "bindings/decoder.h"
#include "bindings/ends.h"
#include "offload/client.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace {

using namespace cutset;
using namespace cutset::bindings;
using namespace cutset::offload;

template <class T>
const T* table(const std::optional<AnyArray>& array, const char* name, std::size_t rows, std::size_t columns,
               const char* dtype) {
  if (!array) return nullptr;
  check_array<T>(*array, name, 2, dtype);
  bindings::check_shape(*array, name, rows, columns);
  return static_cast<const T*>(array->data());
}

template <class T>
nb::object copied(const T* data, std::size_t rows, std::size_t columns) {
  auto made = new_array<T>({rows, columns});
  std::copy(data, data + rows * columns, made.data());
  return nb::cast(made);
}

// A matrix and the arrays that it points to.
struct PyRemoteMatrix {
  ClientMatrix matrix;
  std::vector<nb::object> held;
};

void make_matrix(PyRemoteMatrix* self, const std::string& site, int layer, int expert, std::uint64_t number, int bits,
                 std::size_t depth, const AnyArray& scales, std::optional<AnyArray> bounds,
                 std::optional<AnyArray> secrets, std::optional<AnyArray> projected) {
  check_array<float>(scales, "scales", 1, "float32");
  PyRemoteMatrix made;
  ClientMatrix& matrix = made.matrix;
  matrix.site = site_named(site);
  matrix.layer = layer;
  matrix.expert = expert;
  matrix.number = number;
  matrix.bits = bits;
  matrix.depth = depth;
  matrix.outputs = scales.shape(0);
  matrix.scales = static_cast<const float*>(scales.data());
  if (bounds) {
    check_array<std::int32_t>(*bounds, "bounds", 1, "int32");
    if (bounds->shape(0) != matrix.outputs) refuse("bounds must have as many elements as scales");
    matrix.bounds = static_cast<const std::int32_t*>(bounds->data());
  }
  if (secrets.has_value() != projected.has_value()) refuse("secrets and projected go together");
  if (secrets) {
    if (secrets->ndim() != 2) refuse("secrets must have 2 dimensions");
    matrix.checks = secrets->shape(0);
    matrix.secrets = table<std::uint32_t>(secrets, "secrets", matrix.checks, matrix.outputs, "uint32");
    matrix.projected = table<std::uint32_t>(projected, "projected", matrix.checks, depth, "uint32");
  }
  made.held.push_back(nb::cast(scales));
  for (const auto& array : {bounds, secrets, projected}) {
    if (array) made.held.push_back(nb::cast(*array));
  }
  new (self) PyRemoteMatrix(std::move(made));
}

void make_request(RunRequest* self, PyStep& step, std::uint64_t calls, std::size_t most_rows, std::size_t row,
                  double patience, bool count_cpu) {
  new (self) RunRequest{&step.step(), calls, most_rows, row, patience, count_cpu};
}

// The linears and everything that they point to.
class PyRemote {
 public:
  PyRemote(const PyDecoder& decoder, ThreadPool& pool, const std::vector<PyRemoteMatrix>& matrices, bool masked,
           bool pad_rows, std::pair<double, double> awake)
      : linears_(decoder.spec(), pool, {masked, pad_rows, awake.first, awake.second}, values(matrices)) {
    for (const PyRemoteMatrix& one : matrices) {
      shapes_[one.matrix.number] = {one.matrix.outputs, one.matrix.depth};
      held_.insert(held_.end(), one.held.begin(), one.held.end());
    }
  }

  void attach(nb::object sender, nb::object receiver) {
    linears_.attach(end_of<link::SenderEnd>(sender), end_of<link::ReceiverEnd>(receiver));
    ends_ = {std::move(sender), std::move(receiver)};
  }

  // The names of rows that were lent before and aren't used any more.
  std::vector<std::uint64_t> lend(std::uint64_t number, std::uint64_t name, const AnyArray& r,
                                  const AnyArray& product) {
    const auto shape = shapes_.find(number);
    if (shape == shapes_.end() || r.ndim() != 2) refuse("there is no such matrix, or r hasn't 2 dimensions");
    PadRows pads;
    pads.name = name;
    pads.rows = r.shape(0);
    pads.r = table<std::uint32_t>(r, "r", pads.rows, shape->second.second, "uint32");
    pads.product = table<std::uint32_t>(product, "product", pads.rows, shape->second.first, "uint32");
    const std::set<std::uint64_t> used = linears_.in_use();
    std::vector<std::uint64_t> over;
    for (const auto& lent : pads_) {
      if (used.count(lent.first) == 0) over.push_back(lent.first);
    }
    for (const std::uint64_t old : over) pads_.erase(old);
    linears_.lend(number, pads);
    pads_[name] = {nb::cast(r), nb::cast(product)};
    return over;
  }

  RunOutcome run(const RunRequest& request) {
    nb::gil_scoped_release release;
    return linears_.run(request);
  }

  std::vector<PadRows> take(std::uint64_t number, std::size_t rows) { return linears_.take(number, rows); }
  std::size_t left(std::uint64_t number) const { return linears_.left(number); }
  std::uint64_t calls() const { return linears_.calls(); }

 private:
  static std::vector<ClientMatrix> values(const std::vector<PyRemoteMatrix>& matrices) {
    std::vector<ClientMatrix> found;
    for (const PyRemoteMatrix& one : matrices) found.push_back(one.matrix);
    return found;
  }

  RemoteLinears linears_;
  std::vector<nb::object> held_;
  std::pair<nb::object, nb::object> ends_;
  std::map<std::uint64_t, std::pair<nb::object, nb::object>> pads_;
  std::map<std::uint64_t, std::pair<std::size_t, std::size_t>> shapes_;  // (outputs, depth)
};

nb::object q_of(const SentCall& call) {
  return call.q.empty() ? nb::none() : copied(call.q.data(), call.scales.size(), call.depth);
}

nb::object scales_of(const SentCall& call) {
  auto made = new_array<float>({call.scales.size()});
  std::copy(call.scales.begin(), call.scales.end(), made.data());
  return nb::cast(made);
}

nb::object expected_of(const SentCall& call) {
  return call.checks ? copied(call.expected.data(), call.scales.size(), call.checks) : nb::none();
}

nb::object reply_of(const SentCall& call) {
  if (call.reply.empty()) return nb::none();
  if (!call.pad.empty()) return copied(call.reply.data(), call.scales.size(), call.outputs);
  return copied(reinterpret_cast<const std::int32_t*>(call.reply.data()), call.scales.size(), call.outputs);
}

nb::tuple record_of(const SentCall& call) {
  const link::Record& found = call.record;
  return nb::make_tuple(static_cast<int>(found.kind), found.offset, found.length, found.total, found.end);
}

nb::tuple fault_of(const SentCall& call) {
  const bool row = call.verdict.code == Verdict::kCheckFailed;
  return nb::make_tuple(static_cast<int>(call.verdict.code), call.verdict.row,
                        row ? -1 : static_cast<std::int64_t>(call.verdict.column));
}

nb::dict spent_in(const RunOutcome& outcome) {
  nb::dict spent;
  for (const auto& [number, rows] : outcome.spent) spent[nb::int_(number)] = rows;
  return spent;
}

std::vector<std::tuple<std::uint64_t, std::size_t, std::size_t>> pieces(const std::vector<PadRows>& pads) {
  std::vector<std::tuple<std::uint64_t, std::size_t, std::size_t>> found;
  for (const PadRows& rows : pads) found.emplace_back(rows.name, rows.first, rows.rows);
  return found;
}

nb::bytes front_of_multiply(std::uint64_t call, std::uint64_t matrix, bool masked, std::uint64_t rows,
                            std::uint64_t depth) {
  char front[kMostFront];
  const std::size_t size = write_front(Multiply{call, matrix, masked, rows, depth}, front);
  return nb::bytes(front, size);
}

nb::bytes front_of_answer(std::uint64_t call, double seconds, std::uint64_t shared, bool masked, std::uint64_t rows,
                          std::uint64_t outputs) {
  char front[kMostFront];
  const std::size_t size = write_front(Answer{call, seconds, shared, masked, rows, outputs}, front);
  return nb::bytes(front, size);
}

// Frames as they come, for tests: what was read and where its array begins, or None.
nb::object read_frame(const nb::bytes& frame) {
  Buffer room(frame.size() + kMostFront);
  std::copy(frame.c_str(), frame.c_str() + frame.size(), room.as<char>());
  Multiply asked;
  if (const std::size_t at = read_front(room.as<char>(), frame.size(), asked)) {
    return nb::make_tuple("multiply", asked.call, asked.matrix, asked.masked, asked.rows, asked.depth, at);
  }
  Answer answer;
  if (const std::size_t at = read_front(room.as<char>(), frame.size(), answer)) {
    return nb::make_tuple("product", answer.call, answer.seconds, answer.shared, answer.masked, answer.rows,
                          answer.outputs, at);
  }
  return nb::none();
}

}  // namespace

void bind_remote(nb::module_& m) {
  m.def("front_of_multiply", &front_of_multiply, "call"_a, "matrix"_a, "masked"_a, "rows"_a, "depth"_a);
  m.def("front_of_answer", &front_of_answer, "call"_a, "seconds"_a, "shared"_a, "masked"_a, "rows"_a, "outputs"_a);
  m.def("read_frame", &read_frame, "frame"_a);

  nb::class_<PyRemoteMatrix>(m, "RemoteMatrix", "One matrix as the client of an offload knows it.")
      .def("__init__", &make_matrix, "site"_a, "layer"_a, "expert"_a, nb::kw_only(), "number"_a, "bits"_a, "depth"_a,
           "scales"_a, "bounds"_a.none(), "secrets"_a.none(), "projected"_a.none());

  nb::class_<RunRequest>(m, "RunRequest", "A step to be answered, and what its calls begin with.")
      .def("__init__", &make_request, "step"_a, nb::kw_only(), "calls"_a, "most_rows"_a, "row"_a, "patience"_a,
           "count_cpu"_a, nb::keep_alive<1, 2>());

  nb::class_<SentCall>(m, "SentCall", "A call that was sent and not finished.")
      .def_prop_ro("q", &q_of)
      .def_prop_ro("scales", &scales_of)
      .def_prop_ro("expected", &expected_of)
      .def_prop_ro("pad", [](const SentCall& self) { return pieces(self.pad); })
      .def_prop_ro("record", &record_of)
      .def_prop_ro("reply", &reply_of)
      .def_prop_ro("fault", &fault_of);

  nb::class_<RunOutcome>(m, "RunOutcome", "How far a run got.")
      .def_prop_ro("stop", [](const RunOutcome& self) { return static_cast<int>(self.stop); })
      .def_ro("calls", &RunOutcome::calls)
      .def_ro("wall", &RunOutcome::wall)
      .def_ro("cpu", &RunOutcome::cpu)
      .def_ro("answered", &RunOutcome::answered)
      .def_ro("answered_rows", &RunOutcome::answered_rows)
      .def_ro("bytes_up", &RunOutcome::bytes_up)
      .def_ro("bytes_down", &RunOutcome::bytes_down)
      .def_prop_ro("spent", &spent_in)
      .def_ro("matrix", &RunOutcome::matrix)
      .def_ro("row", &RunOutcome::row)
      .def_ro("rows", &RunOutcome::rows)
      .def_ro("sent", &RunOutcome::sent);

  nb::class_<PyRemote>(m, "RemoteLinears", "The products of a decoder, multiplied behind a ring.")
      .def(nb::init<const PyDecoder&, ThreadPool&, const std::vector<PyRemoteMatrix>&, bool, bool,
                    std::pair<double, double>>(),
           "decoder"_a, "pool"_a, "matrices"_a, nb::kw_only(), "masked"_a, "pad_rows"_a, "awake"_a,
           nb::keep_alive<1, 3>())
      .def("attach", &PyRemote::attach, "sender"_a, "receiver"_a)
      .def("lend", &PyRemote::lend, "matrix"_a, "name"_a, "r"_a, "product"_a)
      .def(
          "take",
          [](PyRemote& self, std::uint64_t number, std::size_t rows) { return pieces(self.take(number, rows)); },
          "matrix"_a, "rows"_a)
      .def("left", &PyRemote::left, "matrix"_a)
      .def("run", &PyRemote::run, "request"_a)
      .def_prop_ro("calls", &PyRemote::calls);
}
