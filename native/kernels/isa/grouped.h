// The kernels of grouped weights of this instruction set; documented in kernels/grouped.h.
#pragma once

#include "kernels/grouped.h"

namespace cutset::CUTSET_ISA {

// Factors of some groups of a panel, one for each output.
constexpr std::size_t kGroupsAtATime = 32;
struct Factors {
  alignas(64) float scales[kGroupsAtATime][kPanel];
  alignas(64) float minima[kGroupsAtATime][kPanel];
  alignas(64) std::int32_t zeros[kGroupsAtATime][kPanel];
};

// Those of `count` groups from `first` on.
void grouped_factors(const PanelForm& form, const std::uint8_t* panel, std::size_t first, std::size_t count,
                     Factors& factors);
void grouped_encode(const PanelForm& form, const float* x, std::size_t rows, std::size_t depth, int bits,
                    const std::int32_t* order, float* room, std::int16_t* q, std::int32_t* sums, float* scales);
void grouped_multiply(const GroupedJob& job);

constexpr GroupedKernels kGrouped = {grouped_encode, grouped_multiply};

}  // namespace cutset::CUTSET_ISA
