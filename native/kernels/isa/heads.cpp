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

namespace {

// The scale of a head in 8 bits: see append_i8.
float code_scale(const float* x, std::size_t count) {
  Vec most = splat(0.0f);
  Vec wrong = splat(0.0f);  // becomes NaN by what isn't finite
  for_each_vec(count, [&](auto get, auto) {
    const Vec v = get(x);
    most = larger(most, larger(v, sub(splat(0.0f), v)));
    wrong = fma(v, splat(0.0f), wrong);
  });
  const float scale = max_lanes(most) / 127.0f + sum_lanes(wrong);
  return scale < 1.17549435e-38f ? 0.0f : scale;
}

// codes[i * stride] = x[i] / scale, to the nearest whole number, of halves the even one.
void write_codes(const float* x, std::size_t count, float scale, std::int8_t* codes, std::size_t stride) {
  if (!(scale > 0.0f)) {  // zeros, or no numbers
    for (std::size_t i = 0; i < count; ++i) codes[i * stride] = 0;
    return;
  }
  const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  for (std::size_t i = 0; i < count; i += kLanes) {
    const std::size_t n = count - i < kLanes ? count - i : kLanes;
    const Vec v = n == kLanes ? load(x + i) : load_part(x + i, n);
    float whole[kLanes];
    store(whole, sub(add(div(v, splat(scale)), magic), magic));
    for (std::size_t j = 0; j < n; ++j) codes[(i + j) * stride] = static_cast<std::int8_t>(whole[j]);
  }
}

}  // namespace

void append_i8(const float* k, const float* v, std::size_t kv_heads, std::size_t head_dim, std::size_t block_size,
               std::size_t place, float* key_block, float* value_block) {
  const std::size_t pack = place / kPackTokens;
  const std::size_t token = place % kPackTokens;
  const std::size_t key_floats = key_pack(CacheType::kInt8, head_dim);
  const std::size_t value_floats = value_pack(CacheType::kInt8, head_dim);
  for (std::size_t h = 0; h < kv_heads; ++h, k += head_dim, v += head_dim) {
    float* key = key_block + (h * (block_size / kPackTokens) + pack) * key_floats;
    float* value = value_block + (h * (block_size / kPackTokens) + pack) * value_floats;
    key[token] = code_scale(k, head_dim);
    value[token] = code_scale(v, head_dim);
    write_codes(k, head_dim, key[token], reinterpret_cast<std::int8_t*>(key + kPackTokens) + token, kPackTokens);
    write_codes(v, head_dim, value[token],
                reinterpret_cast<std::int8_t*>(value + kPackTokens) + token * padded_dim(head_dim), 1);
  }
}

void mix_heads(float* x, std::size_t heads, std::size_t head_dim) {
  const std::size_t run = mixed_run(head_dim), half = run / 2;
  const float factor = 1.0f / __builtin_sqrtf(static_cast<float>(run));
  float parts[2][kMostMixed];
  for (std::size_t at = 0; at < heads * head_dim; at += run) {
    const float* from = x + at;
    float* to = parts[0];
    for (std::size_t stage = 1; stage < run; stage *= 2) {
      for (std::size_t i = 0; i < half; ++i) {
        to[2 * i] = from[i] + from[i + half];
        to[2 * i + 1] = from[i] - from[i + half];
      }
      from = to;
      to = to == parts[0] ? parts[1] : parts[0];
    }
    for (std::size_t i = 0; i < run; ++i) x[at + i] = from[i] * factor;
  }
}

}  // namespace cutset::CUTSET_ISA
