#include "runner/tensor.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/memory.h"
#include "core/split.h"
#include "runner/base64.h"
#include "runner/error.h"

namespace cutset::runner {

namespace {

struct Kind {
  const char* name;
  std::size_t width;
  bool floats;
};

const Kind& kind(Dtype dtype) {
  static constexpr Kind kinds[] = {{"F64", 8, true},  {"F32", 4, true},  {"F16", 2, true},  {"BF16", 2, true},
                                   {"I64", 8, false}, {"I32", 4, false}, {"I16", 2, false}, {"I8", 1, false},
                                   {"U8", 1, false},  {"BOOL", 1, false}};
  return kinds[static_cast<int>(dtype)];
}

void to_floats(Dtype dtype, const char* data, std::size_t first, std::size_t end, float* out) {
  switch (dtype) {
    case Dtype::kF64:
      for (std::size_t i = first; i < end; ++i) {
        double value;  // may lie at any address
        std::memcpy(&value, data + i * sizeof value, sizeof value);
        out[i] = static_cast<float>(value);
      }
      return;
    case Dtype::kF16:
      return widen({data + 2 * first, FloatType::kFloat16}, end - first, out + first);
    case Dtype::kBF16:
      return widen({data + 2 * first, FloatType::kBFloat16}, end - first, out + first);
    default:
      if (data != reinterpret_cast<const char*>(out)) {
        std::memcpy(out + first, data + first * sizeof(float), (end - first) * sizeof(float));
      }
  }
}

bool all_finite(const float* values, std::size_t count) {
  bool finite = true;
  for (std::size_t i = 0; i < count; ++i) finite &= std::abs(values[i]) <= 3.402823466e38f;
  return finite;
}

}  // namespace

std::size_t width(Dtype dtype) { return kind(dtype).width; }
bool is_float(Dtype dtype) { return kind(dtype).floats; }
const char* name(Dtype dtype) { return kind(dtype).name; }

FloatType float_type(const std::vector<const Tensor*>& tensors) {
  const auto all = [&](Dtype dtype) {
    return std::all_of(tensors.begin(), tensors.end(), [&](const Tensor* tensor) { return tensor->dtype == dtype; });
  };
  return all(Dtype::kBF16) ? FloatType::kBFloat16 : all(Dtype::kF16) ? FloatType::kFloat16 : FloatType::kFloat32;
}

std::size_t elements(const Shape& shape, const std::string& where) {
  std::size_t count = 1, limited = 0;
  for (const std::size_t size : shape) {
    if (__builtin_mul_overflow(count, size, &count)) fail(where, " has the absurd shape ", text(shape));
  }
  if (__builtin_mul_overflow(count, std::size_t{64}, &limited)) fail(where, " has the absurd shape ", text(shape));
  return count;
}

void Tensor::read(ThreadPool& pool, void* out) const {
  const std::size_t bytes = elements(shape, where) * width(dtype);
  if (!base64) {
    std::memcpy(out, data.data(), bytes);
  } else if (!decode_base64(pool, data, bytes, static_cast<unsigned char*>(out))) {
    fail(where, " is not valid base64");
  }
  if (file) file->forget();
}

void Tensor::read_floats(ThreadPool& pool, float* out) const {
  const std::size_t count = elements(shape, where);
  const char* from = data.data();
  Buffer decoded;
  if (base64) {
    const bool in_place = dtype == Dtype::kF32;
    if (!in_place) decoded = Buffer(count * width(dtype));
    from = in_place ? reinterpret_cast<const char*>(out) : decoded.as<char>();
    read(pool, const_cast<char*>(from));
  }
  std::atomic<bool> finite{true};
  run_ranges(pool, count, std::size_t{1} << 16, [&](std::size_t first, std::size_t end) {
    to_floats(dtype, from, first, end, out);
    if (!all_finite(out + first, end - first)) finite = false;
  });
  if (file) file->forget();
  if (!finite) fail(where, " holds values that aren't finite");
}

void Tensor::read_halves(ThreadPool& pool, std::uint16_t* out) const {
  const std::uint16_t exponent = dtype == Dtype::kF16 ? 0x7c00 : 0x7f80;
  read(pool, out);
  std::atomic<bool> finite{true};
  run_ranges(pool, elements(shape, where), std::size_t{1} << 16, [&](std::size_t first, std::size_t end) {
    if (std::any_of(out + first, out + end, [&](std::uint16_t x) { return (x & exponent) == exponent; }))
      finite = false;
  });
  if (!finite) fail(where, " holds values that aren't finite");
}

}  // namespace cutset::runner
