// Sums of word codes: 8-bit weights widened to 16 bits, pairs of products summed in int32. (The instruction that
// multiplies bytes, vpmaddubsw, saturates pairs at 16 bits without saying so.)
#include "kernels/isa/codes.h"
#include "kernels/isa/prefetch.h"
#include "kernels/isa/simd.h"

#if !defined(CUTSET_ISA_avx512vnni)

namespace cutset::CUTSET_ISA {

namespace {

// A Wide holds 2 int32 for each of kOutputs outputs: products 0 + 1 and 2 + 3 of a group of four along the depth.
#if defined(CUTSET_ISA_avx512)
using Wide = __m512i;
constexpr std::size_t kOutputs = 8, kMostRows = 5;
inline Wide zero() { return _mm512_setzero_si512(); }
inline Wide weights_at(const std::int8_t* p) {
  return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Wide four(long long words) { return _mm512_set1_epi64(words); }
inline Wide dot(Wide sum, Wide a, Wide b) { return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)); }
inline void put(std::int32_t* p, Wide v) { _mm512_storeu_si512(p, v); }
#elif defined(CUTSET_ISA_avx2)
using Wide = __m256i;
constexpr std::size_t kOutputs = 4, kMostRows = 2;
inline Wide zero() { return _mm256_setzero_si256(); }
inline Wide weights_at(const std::int8_t* p) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Wide four(long long words) { return _mm256_set1_epi64x(words); }
inline Wide dot(Wide sum, Wide a, Wide b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
inline void put(std::int32_t* p, Wide v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
#else
// Plain C++ over 4 outputs; compilers vectorise the inner loops.
constexpr std::size_t kOutputs = 4, kMostRows = 1;
struct Wide {
  std::int32_t lane[8];
};
inline Wide zero() { return {}; }
struct Words {
  std::int16_t lane[16];
};
inline Words weights_at(const std::int8_t* p) {
  Words w;
  for (std::size_t i = 0; i < 16; ++i) w.lane[i] = p[i];
  return w;
}
inline Words four(long long words) {
  Words w;
  for (std::size_t i = 0; i < 4; ++i) __builtin_memcpy(w.lane + 4 * i, &words, 8);
  return w;
}
inline Wide dot(Wide sum, const Words& a, const Words& b) {
  for (std::size_t i = 0; i < 8; ++i) {
    sum.lane[i] += a.lane[2 * i] * b.lane[2 * i] + a.lane[2 * i + 1] * b.lane[2 * i + 1];
  }
  return sum;
}
inline void put(std::int32_t* p, Wide v) { __builtin_memcpy(p, v.lane, sizeof v.lane); }
#endif

// kVectors * kOutputs outputs of kRows rows. `codes` and `stride` in words.
template <std::size_t kRows, std::size_t kVectors>
void block(const std::int16_t* codes, std::size_t stride, std::size_t depth, const std::int8_t* panel,
           std::int32_t (*sums)[kPanel]) {
  Wide acc[kRows][kVectors];
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) acc[r][v] = zero();
  }
  for (std::size_t k = 0; k < depth; k += 4, panel += 4 * kPanel) {
    fetch_ahead<kRows>(panel);
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) {
      const auto weights = weights_at(panel + v * 4 * kOutputs);
#pragma GCC unroll 8
      for (std::size_t r = 0; r < kRows; ++r) {
        long long words;
        __builtin_memcpy(&words, codes + r * stride + k, sizeof words);
        acc[r][v] = dot(acc[r][v], four(words), weights);
      }
    }
  }
  std::int32_t pairs[2 * kOutputs];
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) {
      put(pairs, acc[r][v]);
      for (std::size_t i = 0; i < kOutputs; ++i) sums[r][v * kOutputs + i] = pairs[2 * i] + pairs[2 * i + 1];
    }
  }
}

// All 32 outputs of kRows rows, in as many runs along the depth as registers ask for.
template <std::size_t kRows, std::size_t kVectors>
void panel_block(const std::int16_t* codes, std::size_t stride, std::size_t depth, const std::int8_t* panel,
                 std::int32_t (*sums)[kPanel]) {
  for (std::size_t c = 0; c < kPanel; c += kVectors * kOutputs) {
    block<kRows, kVectors>(codes, stride, depth, panel + 4 * c,
                           reinterpret_cast<std::int32_t (*)[kPanel]>(sums[0] + c));
  }
}

using Block = void (*)(const std::int16_t*, std::size_t, std::size_t, const std::int8_t*, std::int32_t (*)[kPanel]);
#if defined(CUTSET_ISA_avx512)
constexpr Block kBlocks[kMostRows] = {panel_block<1, 4>, panel_block<2, 4>, panel_block<3, 4>, panel_block<4, 4>,
                                      panel_block<5, 4>};
#elif defined(CUTSET_ISA_avx2)
constexpr Block kBlocks[kMostRows] = {panel_block<1, 8>, panel_block<2, 4>};
#else
constexpr Block kBlocks[kMostRows] = {panel_block<1, 2>};
#endif

}  // namespace

void i8_block(const std::uint8_t* codes, std::size_t stride, std::size_t rows, std::size_t depth,
              const std::int8_t* panel, const std::int8_t* /*fetch*/, std::size_t /*fetch_lines*/,
              std::int32_t (*sums)[kPanel]) {
  const std::int16_t* words = reinterpret_cast<const std::int16_t*>(codes);
  while (rows > 0) {
    const std::size_t n = rows < kMostRows ? rows : kMostRows;
    kBlocks[n - 1](words, stride / 2, depth, panel, sums);
    words += n * stride / 2;
    sums += n;
    rows -= n;
  }
}

}  // namespace cutset::CUTSET_ISA

#endif
