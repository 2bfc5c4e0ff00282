#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "core/grouped.h"
#include "core/split.h"

namespace cutset {

namespace {

constexpr float kMostHalf = 65504.0f, kLeastNormalHalf = 0x1p-14f, kLeastScale = 0x1p-16f;

// To what float16 has, ties to even; |x| is at most kMostHalf.
float as_half(float x) {
  if (std::fabs(x) < kLeastNormalHalf) return (x + 0.75f) - 0.75f;  // floats from 1/2 to 1 are as far apart
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits = (bits + 0xFFFu + (bits >> 13 & 1u)) & ~std::uint32_t{0x1FFF};
  std::memcpy(&x, &bits, sizeof bits);
  return x;
}

// A scale is kept in float16 where that is precise enough, and zero where it would be below the least normal float.
float kept_scale(float scale) {
  if (scale < __FLT_MIN__) return 0.0f;
  return scale >= kLeastScale && scale <= kMostHalf ? std::min(as_half(scale), kMostHalf) : scale;
}

// x / scale + shift, rounded to the nearest, ties to even, within least .. most.
void put_codes(const float* x, std::size_t count, float minimum, float scale, float least, float most, float shift,
               std::uint8_t* codes) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: sums with it have no bits for a fraction
  if (!(scale > 0.0f)) {
    std::fill(codes, codes + count, static_cast<std::uint8_t>(shift));
    return;
  }
  for (std::size_t k = 0; k < count; ++k) {
    const float value = std::min(std::max((x[k] - minimum) / scale, least), most);
    codes[k] = static_cast<std::uint8_t>(static_cast<int>((value + kRound) - kRound + shift));
  }
}

}  // namespace

void quantize_groups(ThreadPool& pool, const float* weight, std::size_t outputs, std::size_t depth, int bits,
                     std::size_t group, std::uint8_t* codes, float* scales, float* minima) {
  if (outputs == 0 || depth == 0) throw std::invalid_argument("a weight matrix must not be empty");
  if (bits < 2 || bits > 8) throw std::invalid_argument("codes have 2 to 8 bits");
  if (group == 0 || depth % group != 0) throw std::invalid_argument("groups must divide the columns");
  const std::size_t groups = outputs * (depth / group);
  const float top = static_cast<float>((1 << (bits - 1)) - 1), all = static_cast<float>((1 << bits) - 1);
  std::atomic<bool> finite{true};
  run_ranges(pool, groups, rows_a_task(pool, groups, group), [&](std::size_t first, std::size_t end) {
    for (std::size_t g = first; g < end; ++g) {
      const float* x = weight + g * group;
      float least = x[0], most = x[0], sum = 0.0f;
      for (std::size_t k = 0; k < group; ++k) {
        least = std::min(least, x[k]);
        most = std::max(most, x[k]);
        sum += x[k] * 0.0f;  // NaN if one is no finite number
      }
      float minimum = 0.0f;
      if (minima) {
        minimum = minima[g] = std::fabs(least) <= kMostHalf ? as_half(least) : least;
        scales[g] = kept_scale((most - minimum) / all);
      } else {
        scales[g] = kept_scale(std::max(most, -least) / top);
      }
      if (std::isnan(sum) || !std::isfinite(scales[g])) {
        finite.store(false, std::memory_order_relaxed);
        continue;
      }
      const float shift = minima ? 0.0f : top + 1.0f;
      put_codes(x, group, minimum, scales[g], minima ? 0.0f : -top, minima ? all : top, shift, codes + g * group);
    }
  });
  if (!finite.load()) throw std::invalid_argument("the weights hold a NaN, an infinity or too wide a range");
}

}  // namespace cutset
