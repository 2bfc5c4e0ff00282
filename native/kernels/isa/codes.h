// How this instruction set wants quantised rows.
//
// byte codes (8-bit dot products, AMX): u = q + half, half = 2^(bits-1), as one unsigned byte for 8 bits and as two
//   limbs, low and high, above: [row][limb][stride]. The sums of u.w less half times the sum of w are the sums of q.w.
// word codes (the others): q as int16, [row][stride]. Two of them times 8-bit weights never saturate.
//
// The stride is an odd number of cache lines, so that the rows of a tile don't fall into the same sets of the cache.
#pragma once

#include "kernels/linear.h"

namespace cutset::CUTSET_ISA {

#if defined(CUTSET_ISA_avx512vnni)
constexpr bool kByteCodes = true;
#else
constexpr bool kByteCodes = false;
#endif

// Bytes between rows (byte codes: between limbs).
constexpr std::size_t code_stride(std::size_t depth) {
  return (round_up((kByteCodes ? 1 : 2) * round_up(depth, kDepthStep), 128)) + 64;
}
constexpr std::size_t limbs_of(int bits) { return kByteCodes && bits > 8 ? 2 : 1; }

// sums[row * limbs + limb][32] of one panel, exact modulo 2^32. `rows` is at most kBlockRows and counts limbs as rows.
// Meanwhile `fetch_lines` cache lines from `fetch` on are asked for: a share of the panel that comes next. Between
// enter_tiles and leave_tiles, which do nothing but on AMX.
#if defined(CUTSET_ISA_amx)
constexpr std::size_t kBlockRows = 32;
constexpr bool kEvenBlocks = false;
constexpr std::size_t kTileLeast = 8;  // with fewer rows a tile is mostly empty, and i8_block does without
void enter_tiles();
void leave_tiles();
void tile_block(const std::uint8_t* codes, std::size_t stride, std::size_t rows, std::size_t depth,
                const std::int8_t* panel, const std::int8_t* fetch, std::size_t fetch_lines,
                std::int32_t (*sums)[kPanel]);
#else
constexpr std::size_t kBlockRows = 12;
constexpr bool kEvenBlocks = true;
inline void enter_tiles() {}
inline void leave_tiles() {}
#endif
void i8_block(const std::uint8_t* codes, std::size_t stride, std::size_t rows, std::size_t depth,
              const std::int8_t* panel, const std::int8_t* fetch, std::size_t fetch_lines,
              std::int32_t (*sums)[kPanel]);

}  // namespace cutset::CUTSET_ISA
