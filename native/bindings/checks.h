// Arrays as the bindings take them, and the check of what they say.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <stdexcept>

namespace cutset::bindings {

template <class T, int Dims>
using Array = nanobind::ndarray<T, nanobind::ndim<Dims>, nanobind::c_contig, nanobind::device::cpu>;

using In1 = Array<const float, 1>;
using In2 = Array<const float, 2>;
using In3 = Array<const float, 3>;
using Out1 = Array<float, 1>;
using Out2 = Array<float, 2>;
using Out3 = Array<float, 3>;
using Ids1 = Array<const std::int32_t, 1>;
using Ids2 = Array<const std::int32_t, 2>;

// std::invalid_argument is ValueError in Python.
inline void require(bool right, const char* message) {
  if (!right) throw std::invalid_argument(message);
}

}  // namespace cutset::bindings
