// Weights into the packed form that every instruction set reads; see kernels/linear.h.
#include "kernels/isa/linear.h"

namespace cutset::CUTSET_ISA {

namespace {

constexpr std::size_t kGroup = 4 * kPanel;  // bytes of a panel for four places along the depth

// One row to its places in the panel. Whole steps of a fixed length, so that compilers unroll them.
void place(const std::int8_t* row, std::size_t depth, std::int8_t* at) {
  std::size_t k = 0;
  for (; k + kDepthStep <= depth; k += kDepthStep) {
    for (std::size_t i = 0; i < kDepthStep; i += 4, at += kGroup) __builtin_memcpy(at, row + k + i, 4);
  }
  std::int8_t edge[kDepthStep] = {};
  if (k == depth) return;
  __builtin_memcpy(edge, row + k, depth - k);
  for (std::size_t i = 0; i < kDepthStep; i += 4, at += kGroup) __builtin_memcpy(at, edge + i, 4);
}

}  // namespace

PanelFacts i8_pack(const std::int8_t* const* rows, std::size_t count, std::size_t depth, std::int8_t* panel,
                   std::int32_t* sums) {
  PanelFacts facts{0, true};
  for (std::size_t c = 0; c < count; ++c) {
    const std::int8_t* row = rows[c];
    std::int32_t sum = 0, size = 0;
    std::int8_t least = 0;
    for (std::size_t k = 0; k < depth; ++k) {
      const std::int32_t weight = row[k];
      sum += weight;
      size += weight < 0 ? -weight : weight;
      least = row[k] < least ? row[k] : least;
    }
    sums[c] = sum;
    facts.most_sum = size > facts.most_sum ? size : facts.most_sum;
    facts.legal = facts.legal && least >= -127;
  }
  const std::size_t padded = round_up(depth, kDepthStep);
  if (count < kPanel) __builtin_memset(panel, 0, padded * kPanel);
  for (std::size_t c = count; c < kPanel; ++c) sums[c] = 0;
  // Some cache lines of all rows before the next ones: a row at a time would write every line of the panel 32 times.
  constexpr std::size_t kLines = 4 * kDepthStep;
  for (std::size_t k = 0; k < depth; k += kLines) {
    const std::size_t length = depth - k < kLines ? depth - k : kLines;
    for (std::size_t c = 0; c < count; ++c) place(rows[c] + k, length, panel + k * kPanel + 4 * c);
  }
  return facts;
}

PanelFacts i8_measure(const std::int8_t* panel, std::size_t count, std::size_t depth, std::int32_t* sums) {
  const std::size_t groups = round_up(depth, kDepthStep) / 4;
  std::int32_t sizes[kPanel] = {};
  for (std::size_t c = 0; c < kPanel; ++c) sums[c] = 0;
  std::int8_t least = 0;
  // Sums of so many weights fit in 16 bits.
  constexpr std::size_t kRun = 256;
  for (std::size_t first = 0; first < groups; first += kRun) {
    const std::size_t end = groups - first < kRun ? groups : first + kRun;
    std::int16_t part[kGroup] = {}, size[kGroup] = {};
    for (std::size_t g = first; g < end; ++g) {
      const std::int8_t* at = panel + g * kGroup;
      for (std::size_t i = 0; i < kGroup; ++i) {
        const std::int16_t weight = at[i];
        part[i] = static_cast<std::int16_t>(part[i] + weight);
        size[i] = static_cast<std::int16_t>(size[i] + (weight < 0 ? -weight : weight));
        least = at[i] < least ? at[i] : least;
      }
    }
    for (std::size_t i = 0; i < kGroup; ++i) {
      sums[i / 4] += part[i];
      sizes[i / 4] += size[i];
    }
  }
  PanelFacts facts{0, least >= -127};
  for (std::size_t c = 0; c < kPanel; ++c) {
    facts.most_sum = sizes[c] > facts.most_sum ? sizes[c] : facts.most_sum;
    facts.legal = facts.legal && (c < count || sizes[c] == 0);
  }
  for (std::size_t k = depth; k < 4 * groups; ++k) {
    for (std::size_t c = 0; c < kPanel; ++c) facts.legal = facts.legal && panel[k / 4 * kGroup + 4 * c + k % 4] == 0;
  }
  return facts;
}

}  // namespace cutset::CUTSET_ISA
