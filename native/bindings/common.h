// What several bindings share: scratch, the pool that is used where none is given, new arrays, a linear layer's rows.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <initializer_list>
#include <memory>
#include <optional>

#include "bindings/arrays.h"
#include "core/memory.h"
#include "core/pool.h"

namespace cutset::bindings {

inline ThreadPool& pool_or_alone(ThreadPool* pool) {
  static ThreadPool alone(1);
  return pool ? *pool : alone;
}

// Scratch of each calling thread.
inline Workspace& workspace() {
  static thread_local Workspace mine;
  return mine;
}

// x (rows, depth) of a linear layer.
inline const float* rows_of(const AnyArray& x, std::size_t depth) {
  check_array<float>(x, "x", 2, "float32");
  check_shape(x, "x", x.shape(0), depth);
  return static_cast<const float*>(x.data());
}

// Where it writes (rows, outputs).
inline float* output_of(const AnyOutput& out, const AnyArray& x, std::size_t outputs) {
  check_array<float>(out, "out", 2, "float32");
  check_shape(out, "out", x.shape(0), outputs);
  check_apart(x, out);
  return static_cast<float*>(out.data());
}

template <class T>
nanobind::ndarray<nanobind::numpy, T> new_array(std::initializer_list<std::size_t> shape) {
  std::size_t count = 1;
  for (const std::size_t n : shape) count = checked_product(count, n);
  std::unique_ptr<T[]> data(new T[count]);
  T* raw = data.get();
  nanobind::capsule owner(raw, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  data.release();
  return nanobind::ndarray<nanobind::numpy, T>(raw, shape, owner);
}

// Where a function writes its result: into `out` (rows, columns) if it is given, or else into a new array.
template <class T>
struct Result {
  nanobind::object object;
  T* data;

  Result(const std::optional<AnyOutput>& out, std::size_t rows, std::size_t columns, const char* dtype) {
    if (out) {
      check_array<T>(*out, "out", 2, dtype);
      check_shape(*out, "out", rows, columns);
      data = static_cast<T*>(out->data());
      object = nanobind::cast(*out);
    } else {
      auto made = new_array<T>({rows, columns});
      data = made.data();
      object = nanobind::cast(made);
    }
  }
};

}  // namespace cutset::bindings
