// Sums of groups in AMX tiles: a batch of groups, unit after unit. See grouped_tiles.cpp.
#pragma once

#include "kernels/isa/grouped.h"

#if defined(CUTSET_ISA_amx)

#include <immintrin.h>

namespace cutset::CUTSET_ISA {

constexpr std::size_t kTileRows16 = 16;

// Tiles 0 to 3: sums; 4, 5: 16 rows of limbs; 6, 7: `columns` codes of 16 outputs each.
struct alignas(64) Shape {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};

  explicit Shape(std::size_t columns) {
    row_bytes[4] = row_bytes[5] = static_cast<std::uint16_t>(columns);
    rows[6] = rows[7] = static_cast<std::uint8_t>(columns / 4);
  }
};

// So many groups are taken together, of at most kBatchColumns columns: what one instruction wrote is read when it has
// long been in the cache.
constexpr std::size_t kBatch = 4, kBatchColumns = 256;

// Of joined codes, 16 times the codes lie so many steps of 128 bytes behind the codes.
constexpr std::size_t kJoinedRows = kBatchColumns / 4 + 5;

// The sums of 16 outputs for 16 rows of a tile. Those of a batch are units, one tile each:
//   short   [group][half of the outputs], a row's limbs in two rows
//   joined  [group][half]
//   tall    [group][limb][half]
struct alignas(64) Unit {
  std::int32_t of[kTileRows16][16];
};
constexpr std::size_t kUnits = 8;
struct Sums {
  Unit units[kUnits];
  std::int32_t apart[32];  // whatever lies 4 KiB apart would get into each other's way
};

// A group's codes as tiles read them: [step][64] of outputs 0 to 15, and of 16 to 31 behind, 128 bytes a step.
struct Codes {
  const std::uint8_t* at;
  std::size_t depth;
};

// The instructions' tiles must be literal numbers.
template <int kTile>
inline void zero_tile() {
  if constexpr (kTile == 0) _tile_zero(0);
  if constexpr (kTile == 1) _tile_zero(1);
  if constexpr (kTile == 2) _tile_zero(2);
  if constexpr (kTile == 3) _tile_zero(3);
}

template <int kTile>
inline void store_tile(Unit& unit) {
  if constexpr (kTile == 0) _tile_stored(0, unit.of, 64);
  if constexpr (kTile == 1) _tile_stored(1, unit.of, 64);
  if constexpr (kTile == 2) _tile_stored(2, unit.of, 64);
  if constexpr (kTile == 3) _tile_stored(3, unit.of, 64);
}

template <int kTile>
inline void load_tile(const std::uint8_t* at, std::size_t stride) {
  if constexpr (kTile == 4) _tile_loadd(4, at, stride);
  if constexpr (kTile == 5) _tile_loadd(5, at, stride);
  if constexpr (kTile == 6) _tile_loadd(6, at, stride);
  if constexpr (kTile == 7) _tile_loadd(7, at, stride);
}

#define CUTSET_TILE_DOT(sum, limbs, codes)                           \
  if constexpr (kSum == sum && kLimbs == limbs && kCodes == codes) { \
    if constexpr (kSigned) {                                         \
      _tile_dpbssd(sum, limbs, codes);                               \
    } else {                                                         \
      _tile_dpbsud(sum, limbs, codes);                               \
    }                                                                \
  }
#define CUTSET_TILE_DOTS(sum) \
  CUTSET_TILE_DOT(sum, 4, 6)  \
  CUTSET_TILE_DOT(sum, 4, 7)  \
  CUTSET_TILE_DOT(sum, 5, 6)  \
  CUTSET_TILE_DOT(sum, 5, 7)

template <bool kSigned, int kSum, int kLimbs, int kCodes>
inline void dot_tiles() {
  CUTSET_TILE_DOTS(0)
  CUTSET_TILE_DOTS(1)
  CUTSET_TILE_DOTS(2)
  CUTSET_TILE_DOTS(3)
}

// What a batch is summed up from.
struct Operands {
  const std::uint8_t* limbs;  // of the first row and group
  std::size_t stride;         // bytes between limbs
  std::size_t span, columns;  // of a group, of a tile
  const Codes* codes;
  // Lines that will be needed, so many for each group: in a burst they would wait for each other.
  const std::uint8_t* fetch;
  std::size_t lines;
};

// A group's limbs times codes, added to tile kSum; tiles that are there already aren't loaded.
template <bool kSigned, int kSum, int kLimbs, int kCodes>
inline void add_product(const std::uint8_t* limbs, std::size_t stride, const std::uint8_t* codes, std::size_t depth,
                        std::size_t columns, bool load_limbs, bool load_codes) {
  const bool several = depth > columns;
  for (std::size_t k = 0; k < depth; k += columns) {
    if (load_limbs || several) load_tile<kLimbs>(limbs + k, stride);
    if (load_codes || several) load_tile<kCodes>(codes + k * 32, 128);
    dot_tiles<kSigned, kSum, kLimbs, kCodes>();
  }
}

enum class Way { kShort, kTall, kJoined };

constexpr int units_of(Way way) { return way == Way::kTall ? 4 : 2; }  // of a group
// Of a batch of so many groups; the last may be empty.
constexpr std::size_t units_of(Way way, std::size_t groups) {
  return groups * static_cast<std::size_t>(units_of(way)) < 4 ? 4 : groups * static_cast<std::size_t>(units_of(way));
}

// One unit of a batch. A tile leaves three units later, or the instructions would wait for each other: of the batch
// before, three units are in tiles 1 to 3 still.
template <bool kSigned, Way kWay, int kUnit>
inline void sum_unit(const Operands& in, Unit* now, Unit* before) {
  constexpr int kSum = kUnit % 4, kGroup = kUnit / units_of(kWay), kPart = kUnit % units_of(kWay);
  const std::uint8_t *limbs = in.limbs + kGroup * in.span, *codes = in.codes[kGroup].at + kPart % 2 * 64;
  const std::size_t depth = in.codes[kGroup].depth;
  zero_tile<kSum>();
  if constexpr (kWay == Way::kShort) {
    add_product<kSigned, kSum, 4, 6 + kPart>(limbs, in.stride, codes, depth, in.columns, kPart == 0, true);
  } else if constexpr (kWay == Way::kTall) {
    constexpr int kLimb = kPart / 2;
    add_product<kSigned, kSum, 4 + kLimb, 6 + kPart % 2>(limbs + kLimb * in.stride, 2 * in.stride, codes, depth,
                                                         in.columns, kPart % 2 == 0, kLimb == 0);
  } else {
    add_product<kSigned, kSum, 4, 6>(limbs, 2 * in.stride, codes, depth, in.columns, kPart == 0, true);
    add_product<kSigned, kSum, 5, 7>(limbs + in.stride, 2 * in.stride, codes + kJoinedRows * 128, depth, in.columns,
                                     kPart == 0, true);
  }
  store_tile<(kUnit + 1) % 4>(kUnit < 3 ? before[kUnit] : now[kUnit - 3]);
}

template <bool kSigned, Way kWay, std::size_t kGroups, int kUnit = 0>
inline void sum_units(Operands& in, Unit* now, Unit* before) {
  if constexpr (kUnit < static_cast<int>(kGroups) * units_of(kWay)) {
    if constexpr (kUnit % units_of(kWay) == 0) {
      for (std::size_t line = 0; line < in.lines; ++line, in.fetch += 64) __builtin_prefetch(in.fetch, 0, 2);
    }
    sum_unit<kSigned, kWay, kUnit>(in, now, before);
    sum_units<kSigned, kWay, kGroups, kUnit + 1>(in, now, before);
  } else if constexpr (kUnit < 4) {
    store_tile<(kUnit + 1) % 4>(kUnit < 3 ? before[kUnit] : now[0]);
    sum_units<kSigned, kWay, kGroups, kUnit + 1>(in, now, before);
  }
}

template <bool kSigned, Way kWay, std::size_t kGroups>
void sum_batch(Operands in, Unit* now, Unit* before) {
  sum_units<kSigned, kWay, kGroups>(in, now, before);
}

// Lets the last three units of a batch leave.
inline void last_units_leave(Unit* before) {
  store_tile<1>(before[0]);
  store_tile<2>(before[1]);
  store_tile<3>(before[2]);
}

using SumBatch = void (*)(Operands, Unit*, Unit*);

}  // namespace cutset::CUTSET_ISA

#endif
