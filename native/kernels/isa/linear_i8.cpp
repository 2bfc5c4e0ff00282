// 8-bit products: what is common to all instruction sets. The sums themselves are in i8_words.cpp and i8_vnni.cpp.
#include "kernels/field.h"
#include "kernels/isa/codes.h"
#include "kernels/isa/linear.h"
#include "kernels/isa/prefetch.h"
#include "kernels/isa/simd.h"

namespace cutset::CUTSET_ISA {

namespace {

// The sum of integers from the sums of codes, modulo 2^32: unsigned, because only the last result is known to fit.
// `shift` is half * the sum of the weights, as in codes.h.
template <std::size_t kLimbs>
inline std::int32_t sum_at(const std::int32_t (*sums)[kPanel], const std::uint32_t* shift, std::size_t c) {
  std::uint32_t sum = static_cast<std::uint32_t>(sums[0][c]) - shift[c];
  if constexpr (kLimbs == 2) sum += static_cast<std::uint32_t>(sums[1][c]) << 8;
  return static_cast<std::int32_t>(sum);
}

template <std::size_t kLimbs>
void whole_row(const std::int32_t (*sums)[kPanel], const std::uint32_t* shift, std::int32_t* out) {
  for (std::size_t c = 0; c < kPanel; ++c) out[c] = sum_at<kLimbs>(sums, shift, c);
}

template <std::size_t kLimbs>
void scaled_row(const std::int32_t (*sums)[kPanel], const std::uint32_t* shift, float row_scale,
                const float* output_scales, float* __restrict out) {
  for (std::size_t c = 0; c < kPanel; ++c) {
    out[c] = static_cast<float>(sum_at<kLimbs>(sums, shift, c)) * (row_scale * output_scales[c]);
  }
}

// Rows first .. end of panel p, from the sums of their codes to the output.
template <std::size_t kLimbs>
void finish_rows(const I8Job& job, std::size_t p, std::size_t first, std::size_t end,
                 const std::int32_t (*sums)[kPanel], const std::uint32_t* shift) {
  const std::size_t at = p * kPanel, columns = job.outputs - at < kPanel ? job.outputs - at : kPanel;
  union {
    std::int32_t whole[kPanel];
    float scaled[kPanel];
  } edge;
  for (std::size_t r = first; r < end; ++r, sums += kLimbs) {
    const std::size_t out = r * job.stride + at;
    if (job.whole) {
      whole_row<kLimbs>(sums, shift, columns == kPanel ? job.whole + out : edge.whole);
      if (columns < kPanel) __builtin_memcpy(job.whole + out, edge.whole, columns * sizeof(std::int32_t));
    } else {
      scaled_row<kLimbs>(sums, shift, job.row_scales[r], job.output_scales + at,
                         columns == kPanel ? job.scaled + out : edge.scaled);
      if (columns < kPanel) __builtin_memcpy(job.scaled + out, edge.scaled, columns * sizeof(float));
    }
  }
}

// The same for residues: the sums of their limbs, mod P.
void finish_residues(const I8Job& job, std::size_t p, std::size_t first, std::size_t end,
                     const std::int32_t (*sums)[kPanel]) {
  const std::size_t at = p * kPanel, columns = job.outputs - at < kPanel ? job.outputs - at : kPanel;
  for (std::size_t r = first; r < end; ++r, sums += kResidueLimbs) {
    std::uint32_t out[kPanel];
    for (std::size_t c = 0; c < kPanel; ++c) {
      const std::int64_t low = sums[0][c] + std::int64_t{sums[1][c]} * 256;
      const std::int64_t high = sums[2][c] + std::int64_t{sums[3][c]} * 256;
      out[c] = residue_of(low + high * 65536);
    }
    __builtin_memcpy(job.residues + r * job.stride + at, out, columns * sizeof(std::uint32_t));
  }
}

const void* output_at(const I8Job& job, std::size_t at) {
  if (job.residues) return job.residues + at;
  return job.whole ? static_cast<const void*>(job.whole + at) : job.scaled + at;
}

}  // namespace

void i8_multiply(const I8Job& job) {
  const std::size_t stride = code_stride(job.depth), limbs = job.residues ? kResidueLimbs : limbs_of(job.bits);
  const std::size_t depth = round_up(job.depth, kDepthStep), panels = round_up(job.outputs, kPanel) / kPanel;
  const std::size_t most = kBlockRows / limbs, blocks = (job.rows + most - 1) / most;
  const std::size_t share = blocks ? kPanel * depth / 64 / blocks + 1 : 0;
  alignas(64) std::int32_t sums[kBlockRows][kPanel];
  alignas(64) std::uint32_t shift[kPanel] = {};
  enter_tiles();
  for (std::size_t p = 0; p < panels; ++p) {
    const std::int8_t* panel = job.panels + p * kPanel * depth;
    const std::int8_t* next_panel = panel + kPanel * depth;
    for (std::size_t c = 0; kByteCodes && c < kPanel; ++c) {
      shift[c] = static_cast<std::uint32_t>(job.sums[p * kPanel + c]) << (job.bits - 1);
    }
    for (std::size_t b = 0; b < blocks; ++b) {
      // Even heights where a short last block would use the machine badly.
      const std::size_t first = kEvenBlocks ? job.rows * b / blocks : b * most;
      const std::size_t next = kEvenBlocks ? job.rows * (b + 1) / blocks : first + most;
      const std::size_t end = next < job.rows ? next : job.rows;
      for (std::size_t r = first; r < end; ++r) {
        fetch_output(output_at(job, r * job.stride + p * kPanel));
      }
      i8_block(job.codes + first * limbs * stride, stride, (end - first) * limbs, depth, panel,
               next_panel + b * share * 64, share, sums);
      if (job.residues) {
        finish_residues(job, p, first, end, sums);
      } else {
        (limbs == 2 ? finish_rows<2> : finish_rows<1>)(job, p, first, end, sums, shift);
      }
    }
  }
  leave_tiles();
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
