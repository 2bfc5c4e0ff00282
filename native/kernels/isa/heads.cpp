// What happens to the heads of a row before attention: rotary embedding (Su et al. 2021, arXiv:2104.09864) and the
// way of keys and values into the cache.
#include "kernels/isa/glue.h"
#include "kernels/isa/simd_math.h"

namespace cutset::CUTSET_ISA {

void apply_rope(float* x, std::size_t stride, const float* cos, const float* sin, std::size_t rows, std::size_t heads,
                std::size_t head_dim, std::size_t rotary_dim, bool interleaved) {
  const std::size_t half = rotary_dim / 2;
  for (std::size_t r = 0; r < rows; ++r, x += stride, cos += half, sin += half) {
    for (std::size_t h = 0; h < heads; ++h) {
      float* first = x + h * head_dim;
      float* second = first + half;
      if (interleaved) {
        for (std::size_t i = 0; i < half; ++i) {
          const float a = first[2 * i];
          const float b = first[2 * i + 1];
          first[2 * i] = a * cos[i] - b * sin[i];
          first[2 * i + 1] = b * cos[i] + a * sin[i];
        }
        continue;
      }
      for_each_vec(half, [&](auto get, auto put) {
        const Vec a = get(first);
        const Vec b = get(second);
        const Vec c = get(cos);
        const Vec s = get(sin);
        put(first, sub(mul(a, c), mul(b, s)));
        put(second, add(mul(b, c), mul(a, s)));
      });
    }
  }
}

void append(const float* k, const float* v, std::size_t kv_heads, std::size_t head_dim, std::size_t block_size,
            std::size_t place, float* key_block, float* value_block) {
  const std::size_t padded = padded_dim(head_dim);
  float* key = key_block + place / kPackTokens * head_dim * kPackTokens + place % kPackTokens;
  float* value = value_block + place * padded;
  for (std::size_t h = 0; h < kv_heads; ++h) {
    for (std::size_t d = 0; d < head_dim; ++d) key[d * kPackTokens] = k[d];
    __builtin_memcpy(value, v, head_dim * sizeof(float));
    k += head_dim;
    v += head_dim;
    key += block_size * head_dim;
    value += block_size * padded;
  }
}

}  // namespace cutset::CUTSET_ISA
