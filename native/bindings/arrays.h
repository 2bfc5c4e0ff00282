// Arrays from Python, checked by hand so that the error says what is wrong with which argument.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "core/floats.h"

namespace cutset::bindings {

using AnyArray = nanobind::ndarray<nanobind::ro, nanobind::device::cpu>;
using AnyOutput = nanobind::ndarray<nanobind::device::cpu>;

[[noreturn]] inline void refuse(const std::string& message) { throw nanobind::value_error(message.c_str()); }

template <class Array>
std::string shape_of(const Array& array) {
  std::string text = "(";
  for (std::size_t i = 0; i < array.ndim(); ++i) text += (i ? ", " : "") + std::to_string(array.shape(i));
  return text + ")";
}

// Refuses whatever isn't a C-contiguous, aligned array of T with `dimensions` dimensions.
template <class T, class Array>
void check_array(const Array& array, const char* name, std::size_t dimensions, const char* dtype,
                 nanobind::dlpack::dtype type = nanobind::dtype<T>()) {
  if (array.dtype() != type) refuse(std::string(name) + " must be of type " + dtype);
  if (array.ndim() != dimensions) {
    refuse(std::string(name) + " must have " + std::to_string(dimensions) + " dimensions, not shape " +
           shape_of(array));
  }
  std::int64_t step = 1;
  for (std::size_t i = dimensions; i-- > 0;) {
    if (array.size() > 0 && array.shape(i) > 1 && array.stride(i) != step)
      refuse(std::string(name) + " must be C-contiguous");
    step *= static_cast<std::int64_t>(array.shape(i));
  }
  if (reinterpret_cast<std::uintptr_t>(array.data()) % alignof(T) != 0) {
    refuse(std::string(name) + " must be aligned to its element type");
  }
}

// How the floats of an array are kept: float32, float16, or bfloat16, whose bits numpy has as uint16.
template <class Array>
FloatType float_type(const Array& array) {
  constexpr nanobind::dlpack::dtype kHalf = {static_cast<std::uint8_t>(nanobind::dlpack::dtype_code::Float), 16, 1};
  if (array.dtype() == nanobind::dtype<std::uint16_t>()) return FloatType::kBFloat16;
  return array.dtype() == kHalf ? FloatType::kFloat16 : FloatType::kFloat32;
}

// An array of such floats; refused like those of check_array.
template <class Array>
FloatView check_floats(const Array& array, const char* name, std::size_t dimensions) {
  constexpr const char* kTypes = "float32, float16 or uint16 (bfloat16)";
  const FloatType type = float_type(array);
  if (type == FloatType::kFloat32) {
    check_array<float>(array, name, dimensions, kTypes);
  } else {
    check_array<std::uint16_t>(array, name, dimensions, kTypes, array.dtype());
  }
  return {array.data(), type};
}

template <class Array>
void check_shape(const Array& array, const char* name, std::size_t rows, std::size_t columns) {
  if (array.shape(0) != rows || array.shape(1) != columns) {
    refuse(std::string(name) + " must have shape (" + std::to_string(rows) + ", " + std::to_string(columns) +
           "), not " + shape_of(array));
  }
}

template <class In, class Out>
void check_apart(const In& in, const Out& out) {
  const char* a = static_cast<const char*>(static_cast<const void*>(in.data()));
  const char* b = static_cast<const char*>(static_cast<const void*>(out.data()));
  if (a < b + out.nbytes() && b < a + in.nbytes()) refuse("x and out must not overlap");
}

}  // namespace cutset::bindings
