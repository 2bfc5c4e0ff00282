// Floats as whoever owns them keeps them: in 32 bits, or in 16.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/pool.h"
#include "kernels/linear.h"

namespace cutset {

// Row-major, of a shape that goes without saying where this is used; nowhere if `data` is null.
struct FloatView {
  const void* data = nullptr;
  FloatType type = FloatType::kFloat32;

  FloatView() = default;
  FloatView(const float* floats) : data(floats) {}
  FloatView(const void* floats, FloatType kind) : data(floats), type(kind) {}

  explicit operator bool() const { return data != nullptr; }
  const float* float32() const { return static_cast<const float*>(data); }  // of that type alone
  const void* at(std::size_t element) const { return static_cast<const char*>(data) + element * float_bytes(type); }
};

// `count` floats, at any address, in float32.
void widen(const FloatView& floats, std::size_t count, float* out);

// Rows of a table (any, columns): out (rows, columns).
void look_up(const FloatView& table, const std::int32_t* ids, std::size_t rows, std::size_t columns, float* out);

// The same of a table of so many entries, all of which are read for each row: no address depends on the ids.
void scan_table(ThreadPool& pool, const FloatView& table, std::size_t entries, const std::int32_t* ids,
                std::size_t rows, std::size_t columns, float* out);

}  // namespace cutset
