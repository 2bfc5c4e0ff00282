// Sums of byte codes with the 8-bit dot product of AVX-512 VNNI: 64 products an instruction, summed in int32.
#include "kernels/isa/codes.h"
#include "kernels/isa/prefetch.h"
#include "kernels/isa/simd.h"

#if defined(CUTSET_ISA_avx512vnni)

namespace cutset::CUTSET_ISA {

namespace {

inline __m512i four(const std::uint8_t* p) {
  int bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  return _mm512_set1_epi32(bytes);
}

// kChains sums side by side for each output hide the instruction's latency where there are few rows; integers may be
// added in any order.
template <std::size_t kRows, std::size_t kChains>
void block(const std::uint8_t* codes, std::size_t stride, std::size_t depth, const std::int8_t* panel,
           std::int32_t (*sums)[kPanel]) {
  __m512i acc[kChains][kRows][2];
#pragma GCC unroll 4
  for (std::size_t i = 0; i < kChains; ++i) {
#pragma GCC unroll 14
    for (std::size_t r = 0; r < kRows; ++r) acc[i][r][0] = acc[i][r][1] = _mm512_setzero_si512();
  }
  for (std::size_t k = 0; k < depth; k += 4 * kChains, panel += 128 * kChains) {
#pragma GCC unroll 4
    for (std::size_t i = 0; i < kChains; ++i) {
      fetch_ahead<kRows>(panel + i * 128);
      const __m512i low = _mm512_loadu_si512(panel + i * 128), high = _mm512_loadu_si512(panel + i * 128 + 64);
#pragma GCC unroll 14
      for (std::size_t r = 0; r < kRows; ++r) {
        const __m512i value = four(codes + r * stride + k + 4 * i);
        acc[i][r][0] = _mm512_dpbusd_epi32(acc[i][r][0], value, low);
        acc[i][r][1] = _mm512_dpbusd_epi32(acc[i][r][1], value, high);
      }
    }
  }
#pragma GCC unroll 14
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (std::size_t v = 0; v < 2; ++v) {
      __m512i sum = acc[0][r][v];
#pragma GCC unroll 4
      for (std::size_t i = 1; i < kChains; ++i) sum = _mm512_add_epi32(sum, acc[i][r][v]);
      _mm512_storeu_si512(sums[r] + 16 * v, sum);
    }
  }
}

using Block = void (*)(const std::uint8_t*, std::size_t, std::size_t, const std::int8_t*, std::int32_t (*)[kPanel]);
constexpr std::size_t kMostRows = 12;
constexpr Block kBlocks[kMostRows] = {block<1, 4>, block<2, 4>, block<3, 2>, block<4, 2>,  block<5, 1>,  block<6, 1>,
                                      block<7, 1>, block<8, 1>, block<9, 1>, block<10, 1>, block<11, 1>, block<12, 1>};

}  // namespace

void i8_block(const std::uint8_t* codes, std::size_t stride, std::size_t rows, std::size_t depth,
              const std::int8_t* panel, [[maybe_unused]] const std::int8_t* fetch,
              [[maybe_unused]] std::size_t fetch_lines, std::int32_t (*sums)[kPanel]) {
#if defined(CUTSET_ISA_amx)
  if (rows >= kTileLeast) {
    tile_block(codes, stride, rows, depth, panel, fetch, fetch_lines, sums);
    return;
  }
#endif
  kBlocks[rows - 1](codes, stride, depth, panel, sums);
}

}  // namespace cutset::CUTSET_ISA

#endif
