// Linear layers and the thread pool for Python: arguments are checked here, the work is in core/.
#include "bindings/linears.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/common.h"
#include "core/linear.h"
#include "core/pool.h"
#include "kernels/linear.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace {

using namespace cutset;
using namespace cutset::bindings;

// q (rows, depth) of int8 or int16 as int16; int8 is copied to `room`.
const std::int16_t* integers_of(const AnyArray& q, std::size_t depth, std::vector<std::int16_t>& room) {
  if (q.dtype() == nb::dtype<std::int8_t>()) {
    check_array<std::int8_t>(q, "q", 2, "int8 or int16");
    check_shape(q, "q", q.shape(0), depth);
    const std::int8_t* data = static_cast<const std::int8_t*>(q.data());
    room.assign(data, data + q.size());
    return room.data();
  }
  check_array<std::int16_t>(q, "q", 2, "int8 or int16");
  check_shape(q, "q", q.shape(0), depth);
  return static_cast<const std::int16_t*>(q.data());
}

void make_f32(PackedF32* self, const AnyArray& weight, ThreadPool* pool) {
  const FloatView floats = check_floats(weight, "weight", 2);
  nb::gil_scoped_release release;
  new (self) PackedF32(floats, weight.shape(0), weight.shape(1), pool_or_alone(pool));
}

// Several matrices, stacked.
void make_f32_of(PackedF32* self, const std::vector<AnyArray>& weights, ThreadPool* pool) {
  if (weights.empty()) refuse("there must be a weight");
  std::vector<RowsF32> parts;
  for (const AnyArray& weight : weights) {
    parts.push_back({check_floats(weight, "weight", 2), weight.shape(0)});
    check_shape(weight, "weight", weight.shape(0), weights[0].shape(1));
  }
  nb::gil_scoped_release release;
  new (self) PackedF32(parts, weights[0].shape(1), pool_or_alone(pool));
}

void call_f32(const PackedF32& self, const AnyArray& x, const AnyOutput& out, ThreadPool* pool) {
  const float* in = rows_of(x, self.depth());
  float* y = output_of(out, x, self.outputs());
  nb::gil_scoped_release release;
  self.forward(pool_or_alone(pool), in, x.shape(0), y, workspace());
}

void make_i8(PackedI8* self, const AnyArray& weight, const AnyArray& scales, ThreadPool* pool) {
  check_array<std::int8_t>(weight, "weight", 2, "int8");
  check_array<float>(scales, "scales", 1, "float32");
  if (scales.shape(0) != weight.shape(0)) refuse("scales must have as many elements as weight has rows");
  nb::gil_scoped_release release;
  new (self) PackedI8(static_cast<const std::int8_t*>(weight.data()), static_cast<const float*>(scales.data()),
                      weight.shape(0), weight.shape(1), pool_or_alone(pool));
}

// Several matrices, stacked.
void make_i8_of(PackedI8* self, const std::vector<AnyArray>& weights, const std::vector<AnyArray>& scales,
                ThreadPool* pool) {
  if (weights.empty() || weights.size() != scales.size()) refuse("give as many arrays of scales as of weights");
  std::vector<RowsI8> parts;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    check_array<std::int8_t>(weights[i], "weight", 2, "int8");
    check_array<float>(scales[i], "scales", 1, "float32");
    check_shape(weights[i], "weight", scales[i].shape(0), weights[0].shape(1));
    parts.push_back({static_cast<const std::int8_t*>(weights[i].data()), static_cast<const float*>(scales[i].data()),
                     weights[i].shape(0)});
  }
  nb::gil_scoped_release release;
  new (self) PackedI8(parts, weights[0].shape(1), pool_or_alone(pool));
}

// Packed already: panels (panels, padded depth / 4, 32, 4), which the caller keeps alive.
std::unique_ptr<PackedI8> packed_i8(const AnyArray& panels, const AnyArray& scales, std::size_t depth,
                                    ThreadPool* pool) {
  check_array<std::int8_t>(panels, "panels", 4, "int8");
  check_array<float>(scales, "scales", 1, "float32");
  const std::size_t outputs = scales.shape(0), groups = round_up(depth, kDepthStep) / 4;
  if (panels.shape(0) != round_up(outputs, kPanel) / kPanel || panels.shape(1) != groups || panels.shape(2) != kPanel ||
      panels.shape(3) != 4) {
    refuse("panels must have shape (outputs / 32, depth / 4, 32, 4), both rounded up, not " + shape_of(panels));
  }
  const PanelsI8 given = {static_cast<const std::int8_t*>(panels.data()), static_cast<const float*>(scales.data()),
                          outputs, depth};
  nb::gil_scoped_release release;
  return std::make_unique<PackedI8>(given, pool_or_alone(pool));
}

void call_i8(const PackedI8& self, const AnyArray& x, const AnyOutput& out, int bits, ThreadPool* pool) {
  const float* in = rows_of(x, self.depth());
  float* y = output_of(out, x, self.outputs());
  nb::gil_scoped_release release;
  self.forward(pool_or_alone(pool), in, x.shape(0), bits, y, workspace());
}

nb::object integers_i8(const PackedI8& self, const AnyArray& q, std::optional<int> bits, ThreadPool* pool,
                       std::optional<AnyOutput> out) {
  std::vector<std::int16_t> room;
  const std::int16_t* in = integers_of(q, self.depth(), room);
  const Result<std::int32_t> result(out, q.shape(0), self.outputs(), "int32");
  if (out) check_apart(q, *out);
  const int chosen = bits.value_or(room.empty() ? PackedI8::kMostBits : 8);
  {
    nb::gil_scoped_release release;
    self.integers(pool_or_alone(pool), in, q.shape(0), chosen, result.data, workspace());
  }
  return result.object;
}

nb::object residues_i8(const PackedI8& self, const AnyArray& x, ThreadPool* pool, std::optional<AnyOutput> out) {
  check_array<std::uint32_t>(x, "x", 2, "uint32");
  check_shape(x, "x", x.shape(0), self.depth());
  const Result<std::uint32_t> result(out, x.shape(0), self.outputs(), "uint32");
  if (out) check_apart(x, *out);
  {
    nb::gil_scoped_release release;
    self.residues(pool_or_alone(pool), static_cast<const std::uint32_t*>(x.data()), x.shape(0), result.data,
                  workspace());
  }
  return result.object;
}

nb::tuple quantize_rows_py(const AnyArray& x, int bits, ThreadPool* pool) {
  check_array<float>(x, "x", 2, "float32");
  auto q = new_array<std::int16_t>({x.shape(0), x.shape(1)});
  auto scales = new_array<float>({x.shape(0)});
  {
    nb::gil_scoped_release release;
    quantize_rows(pool_or_alone(pool), static_cast<const float*>(x.data()), x.shape(0), x.shape(1), bits, q.data(),
                  scales.data());
  }
  return nb::make_tuple(q, scales);
}

nb::tuple quantize_weight_py(const AnyArray& weight, ThreadPool* pool) {
  check_array<float>(weight, "weight", 2, "float32");
  auto q = new_array<std::int8_t>({weight.shape(0), weight.shape(1)});
  auto scales = new_array<float>({weight.shape(0)});
  {
    nb::gil_scoped_release release;
    quantize_weight(pool_or_alone(pool), static_cast<const float*>(weight.data()), weight.shape(0), weight.shape(1),
                    q.data(), scales.data());
  }
  return nb::make_tuple(q, scales);
}

// Seconds for reading an array once.
double read_array(const AnyArray& data, ThreadPool* pool) {
  check_array<std::uint8_t>(data, "data", 1, "uint8");
  nb::gil_scoped_release release;
  return read_seconds(pool_or_alone(pool), data.data(), data.nbytes());
}

// Bytes a second at which `pool` reads `bytes` of memory, the best of `times`.
double read_bandwidth(ThreadPool* pool, std::size_t bytes, int times) {
  nb::gil_scoped_release release;
  Buffer memory(bytes / 512 * 512);
  if (memory.bytes() == 0) throw std::invalid_argument("bytes must be at least 512");
  std::fill(memory.as<char>(), memory.as<char>() + memory.bytes(), char{1});
  double best = 0;
  for (int i = 0; i < times; ++i) {
    const double seconds = read_seconds(pool_or_alone(pool), memory.as<void>(), memory.bytes());
    best = std::max(best, static_cast<double>(memory.bytes()) / seconds);
  }
  return best;
}

}  // namespace

void bind_linears(nb::module_& m) {
  nb::class_<ThreadPool>(m, "Pool", "A fixed number of threads, the caller among them.")
      .def(nb::init<int>(), "threads"_a)
      .def_prop_ro("threads", &ThreadPool::threads);

  nb::class_<PackedF32>(m, "LinearF32",
                        "y = x . W^T in float32; weight (outputs, depth) is copied into a packed form of as many bits: "
                        "float32, float16, or bfloat16 as uint16.")
      .def("__init__", &make_f32, "weight"_a, "pool"_a.none() = nb::none())
      .def("__init__", &make_f32_of, "weights"_a, "pool"_a.none() = nb::none(),
           "matrices of the same depth and type, stacked")
      .def("__call__", &call_f32, "x"_a, "out"_a, "pool"_a.none() = nb::none(), "x (rows, depth), out (rows, outputs)")
      .def_prop_ro("outputs", &PackedF32::outputs)
      .def_prop_ro("depth", &PackedF32::depth)
      .def_prop_ro("nbytes", &PackedF32::bytes);

  nb::class_<PackedI8>(m, "LinearI8", "y = x . W^T with 8-bit weights and activations of 8 to 12 bits.")
      .def("__init__", &make_i8, "weight"_a, "scales"_a, "pool"_a.none() = nb::none())
      .def("__init__", &make_i8_of, "weights"_a, "scales"_a, "pool"_a.none() = nb::none(),
           "matrices of the same depth, stacked: lists of int8 (outputs, depth) and float32 (outputs,)")
      .def_static("packed", &packed_i8, "panels"_a, "scales"_a, "depth"_a, "pool"_a.none() = nb::none(),
                  nb::keep_alive<0, 1>(),
                  "weights that are packed already, as reference_linear.pack_weight does it; they are not copied")
      .def("__call__", &call_i8, "x"_a, "out"_a, "bits"_a = 8, "pool"_a.none() = nb::none(),
           "x (rows, depth), out (rows, outputs), both float32")
      .def("integers", &integers_i8, "q"_a, "bits"_a.none() = nb::none(), "pool"_a.none() = nb::none(),
           "out"_a.none() = nb::none(),
           "int32 sums (rows, outputs) of q (rows, depth), int8 or int16; bits is 8 or 12 unless given")
      .def("residues", &residues_i8, "x"_a, "pool"_a.none() = nb::none(), "out"_a.none() = nb::none(),
           "x . W^T mod 2^31 - 1, uint32 (rows, outputs), of residues x (rows, depth); ValueError if some x is not "
           "below")
      .def_prop_ro("outputs", &PackedI8::outputs)
      .def_prop_ro("depth", &PackedI8::depth)
      .def(
          "move_in",
          [](PackedI8& self, ThreadPool* pool) {
            nb::gil_scoped_release release;
            return self.move_in(pool_or_alone(pool));
          },
          "pool"_a.none() = nb::none(),
          "copies weights that lie elsewhere to huge pages of its own; the bytes, 0 if they are there already")
      .def("warm", &PackedI8::warm, "offset"_a, "bytes"_a, nb::call_guard<nb::gil_scoped_release>(),
           "reads weights into the cache from a byte on; where it ended")
      .def_prop_ro("most_bits", &PackedI8::most_bits)
      .def_prop_ro("nbytes", &PackedI8::bytes);

  m.attr("most_residue_depth") = PackedI8::kMostResidueDepth;
  m.def("quantize_rows", &quantize_rows_py, "x"_a, "bits"_a = 8, "pool"_a.none() = nb::none(),
        "(q, scales) of x (rows, depth): int16 (rows, depth) and float32 (rows,)");
  m.def("quantize_weight", &quantize_weight_py, "weight"_a, "pool"_a.none() = nb::none(),
        "(q, scales) of weight (outputs, depth): int8 (outputs, depth) and float32 (outputs,)");
  m.def("read_seconds", &read_array, "data"_a, "pool"_a.none() = nb::none(),
        "seconds for reading data, uint8 (bytes,), once: nothing that streams weights is faster");
  m.def("read_bandwidth", &read_bandwidth, "pool"_a.none(), "bytes"_a, "times"_a = 3,
        "bytes a second at which memory of that size is read, the best of `times`");
}
