// Rows of floats as rows of integers, the same on every instruction set: each step is one IEEE operation.
#include "kernels/isa/codes.h"
#include "kernels/isa/ints.h"
#include "kernels/isa/linear.h"
#include "kernels/isa/simd.h"

namespace cutset::CUTSET_ISA {

namespace {

constexpr std::size_t kChunk = 256;
constexpr std::uint32_t kInfinity = 0x7F800000u;

// The largest |x| as bits, which for floats without their sign are ordered as the numbers are, NaN above all.
std::uint32_t largest(const float* x, std::size_t depth) {
  std::uint32_t most = 0;
  for (std::size_t k = 0; k < depth; ++k) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, x + k, sizeof bits);
    bits &= 0x7FFFFFFFu;
    most = bits > most ? bits : most;
  }
  return most;
}

float scale_of(const float* x, std::size_t depth, int bits) {
  const std::uint32_t most = largest(x, depth);
  if (most >= kInfinity) return __builtin_nanf("");
  float value;
  __builtin_memcpy(&value, &most, sizeof value);
  const float scale = value / static_cast<float>((1 << (bits - 1)) - 1);
  return scale < __FLT_MIN__ ? 0.0f : scale;
}

#if defined(__FMA__)
constexpr bool kFused = true;
#else
constexpr bool kFused = false;
#endif

// Adding 1.5 * 2^23 leaves no bits for a fraction: the addition rounds to the nearest integer, ties to even, and the
// low 16 bits of the sum hold it.
constexpr float kRound = 12582912.0f;
union Chunk {
  float rounded[kChunk];
  std::int32_t q[kChunk];
};

// q = x / scale, rounded, plus a multiple of 2^16; at most kChunk elements. Division is slow: with a fused
// multiply-add, a quotient from the reciprocal and two corrections by the remainder are rounded as the division would
// be (Markstein 1990), where nothing can under- or overflow that isn't rounded to zero afterwards.
void quantize_chunk(const float* x, std::size_t n, float scale, Chunk& out) {
  if (!(scale > 0.0f)) {
    for (std::size_t k = 0; k < n; ++k) out.q[k] = 0;
    return;
  }
  std::size_t k = 0;
  if (kFused && scale > 0x1p-90f && scale < 0x1p90f) {
    const Vec reciprocal = splat(1.0f / scale), minus = splat(-scale), round = splat(kRound);
    for (; k + kLanes <= n; k += kLanes) {
      const Vec value = load(x + k);
      Vec quotient = mul(value, reciprocal);
      quotient = fma(fma(quotient, minus, value), reciprocal, quotient);
      quotient = fma(fma(quotient, minus, value), reciprocal, quotient);
      store(out.rounded + k, add(quotient, round));
    }
  }
  for (; k < n; ++k) out.rounded[k] = x[k] / scale + kRound;
}

// One chunk of a row; `codes` is the row's, `at` the chunk's place in it.
template <class Integer>
void encode_chunk(const Integer* q, std::size_t n, int bits, std::uint8_t* codes, std::size_t stride, std::size_t at) {
  if constexpr (kByteCodes) {
    const int half = 1 << (bits - 1);
    for (std::size_t k = 0; k < n; ++k) codes[at + k] = static_cast<std::uint8_t>(q[k] + half);
    if (bits > 8) {
      for (std::size_t k = 0; k < n; ++k) codes[stride + at + k] = static_cast<std::uint8_t>((q[k] + half) >> 8);
    }
  } else {
    std::int16_t* words = reinterpret_cast<std::int16_t*>(codes) + at;
    for (std::size_t k = 0; k < n; ++k) words[k] = static_cast<std::int16_t>(q[k]);
  }
}

// The weights there are zeros, so these need only be defined.
void clear_padding(std::size_t depth, int bits, std::uint8_t* codes, std::size_t stride) {
  constexpr std::size_t kBytes = kByteCodes ? 1 : 2;
  const std::size_t end = round_up(depth, kDepthStep);
  for (std::size_t limb = 0; limb < limbs_of(bits); ++limb) {
    for (std::size_t i = depth * kBytes; i < end * kBytes; ++i) codes[limb * stride + i] = 0;
  }
}

}  // namespace

namespace {

// kPast: past the caches, for rows that go to another core; a chunk is a number of whole vectors then.
template <bool kPast>
void quantize_rows(const float* x, std::size_t rows, std::size_t depth, int bits, std::int16_t* q, float* scales) {
  for (std::size_t r = 0; r < rows; ++r) {
    scales[r] = scale_of(x + r * depth, depth, bits);
    for (std::size_t k = 0; k < depth; k += kChunk) {
      const std::size_t n = depth - k < kChunk ? depth - k : kChunk;
      Chunk chunk;
      quantize_chunk(x + r * depth + k, n, scales[r], chunk);
      alignas(64) std::int16_t room[kChunk];
      std::int16_t* const to = kPast ? room : q + r * depth + k;
      for (std::size_t i = 0; i < n; ++i) to[i] = static_cast<std::int16_t>(chunk.q[i]);
      if constexpr (kPast) {
        for (std::size_t i = 0; i < n; i += 2 * kLanes) store_past(q + r * depth + k + i, load_ints(room + i));
      }
    }
  }
  if constexpr (kPast) stored();
}

}  // namespace

void quantize(const float* x, std::size_t rows, std::size_t depth, int bits, std::int16_t* q, float* scales) {
  constexpr std::size_t kMuch = std::size_t{1} << 18;  // elements, more than are used again soon
  const bool aligned = reinterpret_cast<std::uintptr_t>(q) % sizeof(Ints) == 0 && depth % (2 * kLanes) == 0;
  (aligned && rows * depth >= kMuch ? quantize_rows<true> : quantize_rows<false>)(x, rows, depth, bits, q, scales);
}

std::size_t i8_code_bytes(std::size_t depth, int bits) { return code_stride(depth) * limbs_of(bits); }

void i8_encode(const float* x, std::size_t rows, std::size_t depth, int bits, std::uint8_t* codes, float* scales) {
  const std::size_t stride = code_stride(depth);
  Chunk chunk;
  for (std::size_t r = 0; r < rows; ++r, x += depth, codes += stride * limbs_of(bits)) {
    scales[r] = scale_of(x, depth, bits);
    for (std::size_t k = 0; k < depth; k += kChunk) {
      const std::size_t n = depth - k < kChunk ? depth - k : kChunk;
      quantize_chunk(x + k, n, scales[r], chunk);
      encode_chunk(chunk.q, n, bits, codes, stride, k);
    }
    clear_padding(depth, bits, codes, stride);
  }
}

void i8_encode_whole(const std::int16_t* q, std::size_t rows, std::size_t depth, int bits, std::uint8_t* codes) {
  const std::size_t stride = code_stride(depth);
  for (std::size_t r = 0; r < rows; ++r, q += depth, codes += stride * limbs_of(bits)) {
    encode_chunk(q, depth, bits, codes, stride, 0);
    clear_padding(depth, bits, codes, stride);
  }
}

}  // namespace cutset::CUTSET_ISA
