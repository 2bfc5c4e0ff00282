// The client's hot call for Python; native/offload/client.h documents it.
#include "bindings/remote.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
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

// The linears and everything that they point to.
class PyRemote : public StepRunner {
 public:
  PyRemote(const PyDecoder& decoder, ThreadPool& pool, bool masked, bool pad_rows)
      : linears(decoder.spec(), pool, {masked, pad_rows}), masked_(masked) {}

  int run(Step& step) override { return static_cast<int>(linears.run(step, count_cpu)); }

  void put(const std::string& site, int layer, int expert, std::uint64_t number, int bits, const AnyArray& scales,
           std::optional<AnyArray> bounds, std::optional<AnyArray> secrets, std::optional<AnyArray> projected,
           std::size_t depth) {
    check_array<float>(scales, "scales", 1, "float32");
    ClientMatrix matrix;
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
    linears.put(site_named(site), layer, expert, matrix);
    shapes_[number] = {matrix.outputs, depth};
    held_.push_back(nb::cast(scales));
    for (const auto& array : {bounds, secrets, projected}) {
      if (array) held_.push_back(nb::cast(*array));
    }
  }

  void attach(nb::object sender, nb::object receiver) {
    linears.attach(end_of<link::SenderEnd>(sender), end_of<link::ReceiverEnd>(receiver));
    ends_ = {std::move(sender), std::move(receiver)};
  }

  void lend(std::uint64_t number, std::uint64_t name, const AnyArray& r, const AnyArray& product) {
    const auto shape = shapes_.find(number);
    if (shape == shapes_.end() || r.ndim() != 2) refuse("there is no such matrix, or r hasn't 2 dimensions");
    PadRows pads;
    pads.name = name;
    pads.rows = r.shape(0);
    pads.r = table<std::uint32_t>(r, "r", pads.rows, shape->second.second, "uint32");
    pads.product = table<std::uint32_t>(product, "product", pads.rows, shape->second.first, "uint32");
    linears.lend(number, pads);
    pads_[name] = {nb::cast(r), nb::cast(product)};
  }

  // Lets lent rows go that are used up.
  void let_go(std::uint64_t name) { pads_.erase(name); }

  nb::tuple record() const {
    const link::Record& found = linears.record;
    return nb::make_tuple(static_cast<int>(found.kind), found.offset, found.length, found.total, found.end);
  }

  // The integers that were sent, the scales of their rows, and what the checks must give, (rows, checks) or None. None
  // for integers that lie in the ring alone.
  nb::tuple sent() const {
    const std::size_t rows = linears.scales.size();
    auto scales = new_array<float>({rows});
    std::copy(linears.scales.begin(), linears.scales.end(), scales.data());
    if (linears.q.empty()) return nb::make_tuple(nb::none(), scales, nb::none());
    const std::size_t checks = linears.at->checks;
    const nb::object expected = checks ? copied(linears.expected.data(), rows, checks) : nb::none();
    return nb::make_tuple(copied(linears.q.data(), rows, linears.at->depth), scales, expected);
  }

  // A copy of the answer that is wrong.
  nb::object answer() const {
    const std::size_t rows = linears.scales.size();
    if (masked_) return copied(reinterpret_cast<const std::uint32_t*>(linears.answer()), rows, linears.at->outputs);
    return copied(reinterpret_cast<const std::int32_t*>(linears.answer()), rows, linears.at->outputs);
  }

  RemoteLinears linears;
  bool count_cpu = false;

 private:
  bool masked_;
  std::vector<nb::object> held_;
  std::pair<nb::object, nb::object> ends_;
  std::map<std::uint64_t, std::pair<nb::object, nb::object>> pads_;
  std::map<std::uint64_t, std::pair<std::size_t, std::size_t>> shapes_;  // (outputs, depth)
};

nb::list pieces(const std::vector<PadRows>& pads) {
  nb::list told;
  for (const PadRows& rows : pads) told.append(nb::make_tuple(rows.name, rows.first, rows.rows));
  return told;
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

  nb::class_<PyRemote, StepRunner> remote(m, "RemoteLinears", "The products of a decoder, multiplied behind a ring.");
  remote
      .def(nb::init<const PyDecoder&, ThreadPool&, bool, bool>(), "decoder"_a, "pool"_a, nb::kw_only(), "masked"_a,
           "pad_rows"_a, nb::keep_alive<1, 3>())
      .def("put", &PyRemote::put, "site"_a, "layer"_a, "expert"_a, nb::kw_only(), "number"_a, "bits"_a, "scales"_a,
           "bounds"_a.none(), "secrets"_a.none(), "projected"_a.none(), "depth"_a)
      .def("attach", &PyRemote::attach, "sender"_a, "receiver"_a, "talks on the ends of a link in shared memory")
      .def("lend", &PyRemote::lend, "number"_a, "name"_a, "r"_a, "product"_a,
           "rows of pads of a matrix, each to be used once here; `name` is for `take` and `pad`")
      .def("let_go", &PyRemote::let_go, "name"_a)
      .def(
          "take",
          [](PyRemote& self, std::uint64_t number, std::size_t rows) {
            return pieces(self.linears.take(number, rows));
          },
          "number"_a, "rows"_a, "takes lent rows away: (name, first, rows) of each piece")
      .def(
          "left", [](const PyRemote& self, std::uint64_t number) { return self.linears.left(number); }, "number"_a)
      .def("sent", &PyRemote::sent)
      .def("answer", &PyRemote::answer)
      .def_prop_ro("record", &PyRemote::record)
      .def_rw("count_cpu", &PyRemote::count_cpu)
      .def_prop_rw(
          "patience", [](const PyRemote& self) { return self.linears.patience; },
          [](PyRemote& self, double seconds) { self.linears.patience = seconds; })
      .def_prop_ro("number", [](const PyRemote& self) { return self.linears.at ? self.linears.at->number : 0; })
      .def_prop_ro("wanted", [](const PyRemote& self) { return self.linears.wanted; })
      .def_prop_rw(
          "row", [](const PyRemote& self) { return self.linears.row; },
          [](PyRemote& self, std::size_t row) { self.linears.row = row; })
      .def_prop_rw(
          "most_rows", [](const PyRemote& self) { return self.linears.most_rows; },
          [](PyRemote& self, std::size_t rows) { self.linears.most_rows = rows; })
      .def_prop_rw(
          "calls", [](const PyRemote& self) { return self.linears.calls; },
          [](PyRemote& self, std::uint64_t calls) { self.linears.calls = calls; })
      .def("stay_awake",
           [](PyRemote& self, double alone, double in_company) {
             self.linears.awake = alone;
             self.linears.awake_in_company = in_company;
           })
      .def_prop_ro("laps",
                   [](const PyRemote& self) { return nb::make_tuple(self.linears.laps.wall, self.linears.laps.cpu); })
      .def_prop_ro("counters",
                   [](const PyRemote& self) {
                     const RemoteLinears::Counters& found = self.linears.counters;
                     return nb::make_tuple(found.calls, found.rows, found.bytes_up, found.bytes_down);
                   })
      .def_prop_ro(
          "pad", [](const PyRemote& self) { return pieces(self.linears.pad); },
          "the rows of the last pad, as `take` gives them")
      .def_prop_ro("verdict", [](const PyRemote& self) {
        const Verdict& found = self.linears.verdict;
        const bool row = found.code == Verdict::kCheckFailed;
        return nb::make_tuple(found.code, found.row, row ? -1 : static_cast<std::int64_t>(found.column));
      });
}
