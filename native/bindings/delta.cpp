// The delta codec's kernels, with every length checked: what is said about lengths may come from the other side.
#include "bindings/delta.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <cmath>
#include <optional>

#include "bindings/checks.h"
#include "kernels/table.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace cutset::bindings {

namespace {

using AnyIn = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using AnyOut = nb::ndarray<nb::c_contig, nb::device::cpu>;
using BytesIn = Array<const std::uint8_t, 1>;
using BytesOut = Array<std::uint8_t, 1>;

// The place of an array's elements in the kernels' tables.
template <class Tensor>
std::size_t place_of(const Tensor& tensor) {
  const std::size_t place = tensor.dtype().lanes == 1 ? width_place(tensor.itemsize()) : 4;
  require(place < 4, "elements must have 1, 2, 4 or 8 bytes");
  require(reinterpret_cast<std::uintptr_t>(tensor.data()) % tensor.itemsize() == 0,
          "a tensor must be aligned to its elements");
  return place;
}

void require_mask(std::size_t bytes, std::size_t count) {
  require(bytes == mask_bytes(count), "mask must have a bit for each element, in whole bytes");
}

template <class A, class B>
void require_apart(const A& a, const B& b) {
  const auto* x = static_cast<const char*>(static_cast<const void*>(a.data()));
  const auto* y = static_cast<const char*>(static_cast<const void*>(b.data()));
  require(x + a.nbytes() <= y || y + b.nbytes() <= x || !a.nbytes() || !b.nbytes(), "arrays must not overlap");
}

std::ptrdiff_t encode(void* held, const AnyIn& fresh, BytesOut mask, BytesOut values, double threshold, bool update) {
  const std::size_t place = place_of(fresh);
  require_mask(mask.size(), fresh.size());
  require_apart(mask, values);
  require_apart(mask, fresh);
  require_apart(values, fresh);
  require(threshold >= 0 && std::isfinite(threshold), "threshold must be 0 or above");
  const DeltaTask task = {
      held, fresh.data(), fresh.size(), update, mask.data(), values.data(), values.size() / fresh.itemsize()};
  const nb::gil_scoped_release released;
  const DeltaKernels& delta = kernels().delta;
  if (threshold == 0) return delta.encode[place](task);
  require(held, "a threshold needs what is held");
  if (fresh.dtype() == nb::dtype<float>()) {
    float limit = static_cast<float>(threshold);
    if (limit > threshold) limit = std::nextafter(limit, 0.0f);
    return limit == 0 ? delta.encode[place](task) : delta.encode_near_f32(task, limit);
  }
  require(fresh.dtype() == nb::dtype<std::uint8_t>(), "only float32 and uint8 take a threshold");
  return delta.encode_near_u8(task, static_cast<std::uint8_t>(threshold < 255 ? threshold : 255));
}

template <class Held>
void require_same(const Held& held, const AnyIn& fresh) {
  require(held.dtype() == fresh.dtype() && held.size() == fresh.size(), "held must be of the type and size of fresh");
  place_of(held);
}

template <class Held>
void require_free(const Held& held, const AnyIn& fresh, const BytesOut& mask, const BytesOut& values) {
  require_same(held, fresh);
  require_apart(held, mask);
  require_apart(held, values);
}

std::ptrdiff_t encode_held(std::optional<AnyOut> held, AnyIn fresh, BytesOut mask, BytesOut values, double threshold) {
  if (!held) return encode(nullptr, fresh, mask, values, threshold, false);
  require_free(*held, fresh, mask, values);
  require_apart(*held, fresh);
  return encode(held->data(), fresh, mask, values, threshold, true);
}

std::ptrdiff_t difference(AnyIn base, AnyIn fresh, BytesOut mask, BytesOut values, double threshold) {
  require_free(base, fresh, mask, values);
  return encode(const_cast<void*>(base.data()), fresh, mask, values, threshold, false);  // isn't written
}

int decode(AnyOut held, BytesIn mask, BytesIn values) {
  const std::size_t place = place_of(held);
  require_mask(mask.size(), held.size());
  require(values.size() % held.itemsize() == 0, "values must be whole elements");
  require_apart(held, mask);
  require_apart(held, values);
  const nb::gil_scoped_release released;
  return kernels().delta.decode[place](held.data(), held.size(), mask.data(), values.data(),
                                       values.size() / held.itemsize());
}

int gather(AnyIn held, BytesIn mask, BytesOut values) {
  const std::size_t place = place_of(held);
  require_mask(mask.size(), held.size());
  require(values.size() % held.itemsize() == 0, "values must be whole elements");
  require_apart(held, values);
  require_apart(mask, values);
  const nb::gil_scoped_release released;
  return kernels().delta.gather[place](held.data(), held.size(), mask.data(), values.data(),
                                       values.size() / held.itemsize());
}

std::size_t nest(BytesIn mask, BytesOut out) {
  require(out.size() >= nested_bytes((mask.size() + 7) / 8) + kNestSlack,
          "out is too short for any mask of that length");
  require_apart(mask, out);
  return kernels().delta.nest(mask.data(), mask.size(), out.data());
}

bool unnest(BytesIn nested, BytesOut mask) {
  require_apart(nested, mask);
  return kernels().delta.unnest(nested.data(), nested.size(), mask.data(), mask.size());
}

}  // namespace

}  // namespace cutset::bindings

void bind_delta(nb::module_& m) {
  using namespace cutset::bindings;
  m.def("delta_encode", &encode_held, "held"_a.noconvert().none(), "fresh"_a.noconvert(), "mask"_a.noconvert(),
        "values"_a.noconvert(), "threshold"_a = 0.0);
  m.def("delta_compare", &difference, "base"_a.noconvert(), "fresh"_a.noconvert(), "mask"_a.noconvert(),
        "values"_a.noconvert(), "threshold"_a = 0.0);
  using Released = nb::call_guard<nb::gil_scoped_release>;
  m.def("mask_nest", &nest, "mask"_a.noconvert(), "out"_a.noconvert(), Released());
  m.def("mask_unnest", &unnest, "nested"_a.noconvert(), "mask"_a.noconvert(), Released());
  m.def("delta_gather", &gather, "held"_a.noconvert(), "mask"_a.noconvert(), "values"_a.noconvert());
  m.def("delta_decode", &decode, "held"_a.noconvert(), "mask"_a.noconvert(), "values"_a.noconvert());
}
