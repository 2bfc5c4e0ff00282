// 8-bit products: what is common to all instruction sets. The sums themselves are in i8_words.cpp and i8_vnni.cpp.
#include "kernels/isa/codes.h"
#include "kernels/isa/linear.h"
#include "kernels/isa/simd.h"

namespace cutset::CUTSET_ISA {

namespace {

// From sums of codes to sums of integers, modulo 2^32: unsigned, because only the last result is known to fit.
void combine(const I8Job& job, std::int32_t (*sums)[kPanel], std::size_t row, std::int32_t* whole) {
  if constexpr (!kByteCodes) {
    for (std::size_t c = 0; c < kPanel; ++c) whole[c] = sums[row][c];
    return;
  }
  const std::uint32_t half = 1u << (job.bits - 1);
  if (job.bits <= 8) {
    for (std::size_t c = 0; c < kPanel; ++c) {
      whole[c] = static_cast<std::int32_t>(static_cast<std::uint32_t>(sums[row][c]) -
                                           half * static_cast<std::uint32_t>(job.sums[c]));
    }
    return;
  }
  for (std::size_t c = 0; c < kPanel; ++c) {
    whole[c] = static_cast<std::int32_t>(static_cast<std::uint32_t>(sums[2 * row][c]) +
                                         256u * static_cast<std::uint32_t>(sums[2 * row + 1][c]) -
                                         half * static_cast<std::uint32_t>(job.sums[c]));
  }
}

void finish_row(const I8Job& job, const std::int32_t* whole, std::size_t row) {
  if (job.whole) {
    std::int32_t* out = job.whole + row * job.stride;
    for (std::size_t c = 0; c < job.columns; ++c) out[c] = whole[c];
    return;
  }
  const float scale = job.row_scales[row];
  float* out = job.scaled + row * job.stride;
  if (job.columns == kPanel) {
    for (std::size_t c = 0; c < kPanel; ++c) out[c] = static_cast<float>(whole[c]) * (scale * job.column_scales[c]);
    return;
  }
  for (std::size_t c = 0; c < job.columns; ++c) out[c] = static_cast<float>(whole[c]) * (scale * job.column_scales[c]);
}

}  // namespace

void i8_panel(const I8Job& job) {
  const std::size_t stride = code_stride(job.depth), limbs = limbs_of(job.bits);
  const std::size_t depth = round_up(job.depth, kDepthStep);
  const std::size_t all = job.rows * limbs;
  alignas(64) std::int32_t sums[kBlockRows][kPanel];
  alignas(64) std::int32_t whole[kPanel];
  // Blocks of nearly equal height: a short last one would use the machine badly.
  const std::size_t blocks = (all + kBlockRows - 1) / kBlockRows;
  for (std::size_t b = 0; b < blocks; ++b) {
    const std::size_t first = job.rows * b / blocks, rows = job.rows * (b + 1) / blocks - first;
    i8_block(job.codes + first * limbs * stride, stride, rows * limbs, depth, job.panel, sums);
    for (std::size_t r = 0; r < rows; ++r) {
      combine(job, sums, r, whole);
      finish_row(job, whole, first + r);
    }
  }
}

std::uint64_t read(const void* data, std::size_t bytes) {
  const float* at = static_cast<const float*>(data);
  Vec sums[8] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f),
                 splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
  for (std::size_t i = 0; i < bytes / sizeof(float); i += 128) {
    for (std::size_t v = 0; v < 128 / kLanes; ++v) sums[v % 8] = add(sums[v % 8], load(at + i + v * kLanes));
  }
  std::uint64_t mixed = 0;
  for (const Vec& sum : sums) {
    const float value = sum_lanes(sum);
    std::uint32_t word;
    __builtin_memcpy(&word, &value, sizeof word);
    mixed = mixed * 31 + word;
  }
  return mixed;
}

}  // namespace cutset::CUTSET_ISA
