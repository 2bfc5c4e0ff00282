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

// Asks for the factors of `count` groups from `first` on before they are needed: they lie apart from the codes, where
// no stream of reads leads to them. Groups beyond the last are the next panel's.
void fetch_factors(const PanelForm& form, const std::uint8_t* panel, std::size_t first, std::size_t count);

void grouped_encode(const PanelForm& form, const float* x, std::size_t rows, std::size_t depth, int bits,
                    const std::int32_t* order, float* room, std::int16_t* q, std::int32_t* sums, float* scales,
                    std::uint8_t* limbs);
void grouped_multiply(const GroupedJob& job);
std::size_t grouped_limb_bytes(const PanelForm& form);

// Adds `count` groups from `first` on of some rows to totals[row][32].
using GroupedBlock = void (*)(const PanelForm& form, const GroupedRows& rows, const std::uint8_t* panel,
                              std::size_t first, std::size_t count, const Factors& factors, float (*totals)[kPanel]);
// For 1 to kMostBlockRows rows.
GroupedBlock grouped_block(const PanelForm& form, std::size_t rows);

#if defined(CUTSET_ISA_avx512vnni)
constexpr std::size_t kMostBlockRows = 6;

// The limbs of a row: q = low + radix * high, signed bytes, one after the other and so many bytes apart; four columns
// in the order in which codes have them. Of codes of 4 bits tiles multiply the radix with the codes, so it is 16.
inline std::size_t limb_stride(std::size_t depth) { return round_up(depth, 128) + 64; }
inline bool wide_radix(const PanelForm& form) { return form.bits > 4 || form.levels; }  // 256
void grouped_limbs(const PanelForm& form, const std::int16_t* q, std::uint8_t* limbs);  // of one row
#elif defined(CUTSET_ISA_avx512)
constexpr std::size_t kMostBlockRows = 8;
#elif defined(CUTSET_ISA_avx2)
constexpr std::size_t kMostBlockRows = 2;
#else
constexpr std::size_t kMostBlockRows = 1;
#endif

#if defined(CUTSET_ISA_amx)
constexpr std::size_t kTileLeast = 5;  // with fewer rows a tile is mostly empty
void grouped_tiles(const GroupedJob& job);
#endif

constexpr GroupedKernels kGrouped = {grouped_limb_bytes, grouped_encode, grouped_multiply};

}  // namespace cutset::CUTSET_ISA
