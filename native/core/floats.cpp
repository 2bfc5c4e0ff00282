#include "core/floats.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/split.h"
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

void scan_table(ThreadPool& pool, const FloatView& table, std::size_t entries, const std::int32_t* ids,
                std::size_t rows, std::size_t columns, float* out) {
  const std::size_t bytes = columns * float_bytes(table.type);
  const bool narrow = table.type != FloatType::kFloat32;
  std::vector<std::uint8_t> room(narrow ? rows * bytes : 0);
  std::uint8_t* to = narrow ? room.data() : static_cast<std::uint8_t*>(static_cast<void*>(out));
  std::memset(to, 0, rows * bytes);
  constexpr std::size_t kLine = 64;
  const std::size_t threads = static_cast<std::size_t>(pool.threads());
  const std::size_t each = std::max(kLine, (bytes / threads + kLine - 1) / kLine * kLine);
  run_ranges(pool, bytes, each, [&](std::size_t begin, std::size_t end) {
    const auto* entry = static_cast<const std::uint8_t*>(table.data) + begin;
    kernels().glue.scan({entry, entries, bytes, end - begin, 0, ids, rows, to + begin, bytes});
  });
  if (narrow) widen({to, table.type}, rows * columns, out);
}

}  // namespace cutset
