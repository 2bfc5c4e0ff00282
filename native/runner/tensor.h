// Tensors as they lie in a file: described, checked against each other, and read one at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/floats.h"
#include "core/pool.h"
#include "runner/file.h"
#include "runner/spec.h"

namespace cutset::runner {

enum class Dtype { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8, kBool };

std::size_t width(Dtype dtype);  // bytes of an element
bool is_float(Dtype dtype);
const char* name(Dtype dtype);  // as safetensors writes it

// Elements of a shape; Error (naming `where`) where their bytes don't fit in memory.
std::size_t elements(const Shape& shape, const std::string& where);

struct Tensor {
  std::string where;  // names it in errors, with its file
  Dtype dtype;
  Shape shape;
  std::string_view data;             // in the file, little-endian and row-major
  bool base64 = false;               // data is encoded
  const MappedFile* file = nullptr;  // whose pages can be given back after reading

  // The elements as they are: width(dtype) bytes each. Error for bad base64.
  void read(ThreadPool& pool, void* out) const;

  // The elements in float32. Error for values that aren't finite.
  void read_floats(ThreadPool& pool, float* out) const;

  // The same of float16 and bfloat16, as they are.
  void read_halves(ThreadPool& pool, std::uint16_t* out) const;
};

// In what some tensors of one matrix are kept for float32 products: the 16 bits that all of them have, or float32.
FloatType float_type(const std::vector<const Tensor*>& tensors);

// Tensors under their names in a checkpoint.
using Tensors = std::map<std::string, Tensor>;

// The tensors of a model, each of the shape and kind that the specification asks for. `where` is where they were looked
// for. Error for one that is missing, misshapen or unexpected.
Tensors checked_tensors(const ModelSpec& spec, Tensors tensors, const std::string& where);

// In an integer checkpoint: the names of a matrix's scales, and of those that its columns were multiplied by.
std::string scale_name(const std::string& matrix);
std::string channel_scale_name(const std::string& matrix);

}  // namespace cutset::runner
