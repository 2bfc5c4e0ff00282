#include "core/floats.h"

#include <cstring>

#include "kernels/table.h"

namespace cutset {

namespace {

float from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

float from_bfloat16(std::uint16_t bits) { return from_bits(static_cast<std::uint32_t>(bits) << 16); }

// Moves exponent and fraction into place and scales by 2^112, which also makes the subnormal ones normal.
float from_float16(std::uint16_t half) {
  const std::uint32_t rest = static_cast<std::uint32_t>(half & 0x7fff) << 13;
  const float plain = from_bits(rest) * 0x1p112f;
  const float wide = (half & 0x7c00) == 0x7c00 ? from_bits(rest | 0x7f800000u) : plain;
  return half & 0x8000 ? -wide : wide;
}

template <class Widen>
void each(const void* from, std::size_t count, float* out, const Widen& to_float) {
  for (std::size_t i = 0; i < count; ++i) {
    std::uint16_t word;
    std::memcpy(&word, static_cast<const char*>(from) + i * sizeof word, sizeof word);
    out[i] = to_float(word);
  }
}

}  // namespace

void widen(const FloatView& floats, std::size_t count, float* out) {
  switch (floats.type) {
    case FloatType::kBFloat16:
      return each(floats.data, count, out, from_bfloat16);
    case FloatType::kFloat16:
      return each(floats.data, count, out, from_float16);
    case FloatType::kFloat32:
      std::memcpy(out, floats.data, count * sizeof(float));
  }
}

void look_up(const FloatView& table, const std::int32_t* ids, std::size_t rows, std::size_t columns, float* out) {
  if (table.type == FloatType::kFloat32) {
    return kernels().glue.embedding(table.float32(), ids, rows, columns, out);
  }
  for (std::size_t r = 0; r < rows; ++r) {
    widen({table.at(static_cast<std::size_t>(ids[r]) * columns), table.type}, columns, out + r * columns);
  }
}

}  // namespace cutset
