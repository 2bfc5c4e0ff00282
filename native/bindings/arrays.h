// Arrays from Python, checked by hand so that the error says what is wrong with which argument.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <stdexcept>
#include <string>

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
void check_array(const Array& array, const char* name, std::size_t dimensions, const char* dtype) {
  if (array.dtype() != nanobind::dtype<T>()) refuse(std::string(name) + " must be of type " + dtype);
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
