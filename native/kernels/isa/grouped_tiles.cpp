// Products of grouped weights with AMX tiles: the rows' integers in two signed bytes times codes as bytes, summed over
// a group in int32; then the factors, as everywhere.
//
// A tile that leaves takes as long as a product, however few rows it has. So the limbs of up to 8 rows lie in one tile,
// in turns (short). Of more rows (tall) the limbs have a tile each; but codes of 4 bits are joined: 16 times the code
// is a byte too, and one tile sums up both limbs. With tiles at work only one unit converts and multiplies floats,
// which bounds the rest; so the limbs of wider codes are put together by instructions that another unit has.
#include "kernels/isa/grouped_bytes.h"

#if defined(CUTSET_ISA_amx)

namespace cutset::CUTSET_ISA {

namespace {

constexpr std::size_t kTileRows16 = 16;

constexpr std::size_t kRowsAtATime = 128;
constexpr std::size_t kCacheBytes = std::size_t{1} << 20;  // of rows' limbs that see all panels before the next ones do

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

std::size_t tile_columns(const PanelForm& form) {
  std::size_t columns = 64;
  while (form.span % columns != 0 || form.depth % columns != 0) columns /= 2;
  return columns;
}

// So many groups are taken together, of at most kBatchColumns columns: what one instruction wrote is read when it has
// long been in the cache.
constexpr std::size_t kBatch = 4, kBatchColumns = 256;

// Lines of outputs 0 to 15 and of 16 to 31 in turns.
using Room = std::uint8_t (*)[2][64];

// Codes less `off`, and 16 times that, as bytes.
template <int kStep>
inline void put_joined(const std::uint8_t* slab, Ints off, Ints off16, Room plain, Room times16) {
  const Ints x = load_ints(slab + kStep * 64), low = splat_int(0x0F0F0F0F),
             high = splat_int(static_cast<std::int32_t>(0xF0F0F0F0u));
  store_ints(plain[kStep][0], _mm512_sub_epi8(both(x, low), off));
  store_ints(plain[kStep][1], _mm512_sub_epi8(both(right<4>(x), low), off));
  store_ints(times16[kStep][0], _mm512_sub_epi8(both(left<4>(x), high), off16));
  store_ints(times16[kStep][1], _mm512_sub_epi8(both(x, high), off16));
}

template <int kBits, bool kLevels, int kStep>
inline void put_plain(const std::uint8_t* slab, Ints table, Ints off, Room room) {
  const Pair pair = bytes_of<kBits, kLevels, kStep>(slab, table);
  store_ints(room[kStep][0], _mm512_sub_epi8(pair.low, off));
  store_ints(room[kStep][1], _mm512_sub_epi8(pair.high, off));
}

struct Taken {
  Ints table, off, off16;
};

inline void fetch_slab(const std::uint8_t* slab, int bits) {
  constexpr std::size_t kFar = 6144;
  for (std::size_t at = 0; at < slab_bytes(bits); at += 64) __builtin_prefetch(slab + kFar + at, 0, 2);
}

// The room has the codes first, from kJoinedRows on 16 times the codes.
constexpr std::size_t kJoinedRows = kBatchColumns / 4 + 5;

void unpack_joined(const std::uint8_t* slab, std::size_t depth, const Taken& taken, Room room) {
  for (std::size_t k = 0; k < depth; k += kSlab, slab += slab_bytes(4), room += kSlab / 4) {
    fetch_slab(slab, 4);
    put_joined<0>(slab, taken.off, taken.off16, room, room + kJoinedRows);
    put_joined<1>(slab, taken.off, taken.off16, room, room + kJoinedRows);
    put_joined<2>(slab, taken.off, taken.off16, room, room + kJoinedRows);
    put_joined<3>(slab, taken.off, taken.off16, room, room + kJoinedRows);
  }
}

template <int kBits, bool kLevels>
void unpack_plain(const std::uint8_t* slab, std::size_t depth, const Taken& taken, Room room) {
  for (std::size_t k = 0; k < depth; k += kSlab, slab += slab_bytes(kBits), room += kSlab / 4) {
    fetch_slab(slab, kBits);
    put_plain<kBits, kLevels, 0>(slab, taken.table, taken.off, room);
    put_plain<kBits, kLevels, 1>(slab, taken.table, taken.off, room);
    put_plain<kBits, kLevels, 2>(slab, taken.table, taken.off, room);
    put_plain<kBits, kLevels, 3>(slab, taken.table, taken.off, room);
  }
}

// Of codes that are used where they are.
void only_fetch(const std::uint8_t* slab, std::size_t depth, const Taken&, Room) {
  for (std::size_t k = 0; k < depth; k += kSlab, slab += slab_bytes(8)) fetch_slab(slab, 8);
}

using Unpack = void (*)(const std::uint8_t*, std::size_t, const Taken&, Room);

Unpack unpack_for(const PanelForm& form, std::int32_t off, bool joined) {
  if (joined) return unpack_joined;
  if (form.levels) return unpack_plain<4, true>;
  if (form.bits == 4) return unpack_plain<4, false>;
  if (form.bits == 5) return unpack_plain<5, false>;
  if (form.bits == 6) return unpack_plain<6, false>;
  return off ? unpack_plain<8, false> : only_fetch;
}

// What is taken off the codes when they are unpacked, so that it needn't be taken off the sums: the zero that all
// groups share, where signed bytes are left. Codes of 8 bits are unpacked for this alone, for which there must be many
// rows.
std::int32_t taken_off(const PanelForm& form, std::size_t rows) {
  if (form.zeros) return 0;
  if (form.bits == 4 && !form.levels) return form.zero == 8 ? 8 : 0;
  if (form.bits == 8) return form.zero == 128 && rows > 2 * kTileRows16 ? 128 : 0;
  return form.zero > 128 ? 0 : form.zero;
}

// [limb, or 16 rows][half of the outputs][row] of 16 sums. Whatever lies 4 KiB apart would get into each other's way.
struct alignas(64) Sums {
  std::int32_t of[2][2][kTileRows16][16];
  std::int32_t apart[32];
};

// A group's codes as tiles read them: [step][64] of outputs 0 to 15, and of 16 to 31 behind, 128 bytes a step.
struct Codes {
  const std::uint8_t* at;
  std::size_t depth, columns;  // of the group, of a tile
};

// The instructions' tiles must be literal numbers.
#define CUTSET_TILE_DOT(sum, limbs, codes) \
  do {                                     \
    if constexpr (kSigned) {               \
      _tile_dpbssd(sum, limbs, codes);     \
    } else {                               \
      _tile_dpbsud(sum, limbs, codes);     \
    }                                      \
  } while (false)

// Of up to 16 rows: [limb][half].
template <bool kSigned>
void multiply_tall(const std::uint8_t* limbs, std::size_t stride, const Codes& codes, Sums& sums) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const std::uint8_t* at = codes.at;
  for (std::size_t k = 0; k < codes.depth; k += codes.columns, at += codes.columns * 32) {
    _tile_loadd(6, at, 128);
    _tile_loadd(4, limbs + k, 2 * stride);
    CUTSET_TILE_DOT(0, 4, 6);
    _tile_loadd(7, at + 64, 128);
    CUTSET_TILE_DOT(1, 4, 7);
    _tile_loadd(5, limbs + stride + k, 2 * stride);
    CUTSET_TILE_DOT(2, 5, 6);
    CUTSET_TILE_DOT(3, 5, 7);
  }
  _tile_stored(0, sums.of[0][0], 64);
  _tile_stored(1, sums.of[0][1], 64);
  _tile_stored(2, sums.of[1][0], 64);
  _tile_stored(3, sums.of[1][1], 64);
}

// Of up to 8 rows: [0][half], the limbs in turns.
template <bool kSigned>
void multiply_short(const std::uint8_t* limbs, std::size_t stride, const Codes& codes, Sums& sums) {
  _tile_zero(0);
  _tile_zero(1);
  const std::uint8_t* at = codes.at;
  for (std::size_t k = 0; k < codes.depth; k += codes.columns, at += codes.columns * 32) {
    _tile_loadd(4, limbs + k, stride);
    _tile_loadd(6, at, 128);
    CUTSET_TILE_DOT(0, 4, 6);
    _tile_loadd(7, at + 64, 128);
    CUTSET_TILE_DOT(1, 4, 7);
  }
  _tile_stored(0, sums.of[0][0], 64);
  _tile_stored(1, sums.of[0][1], 64);
}

// Of up to 16 rows, or with kTwo of up to 32: [16 rows][half].
template <bool kSigned, bool kTwo>
void multiply_joined(const std::uint8_t* limbs, std::size_t stride, const Codes& codes, Sums& sums) {
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (kTwo) {
    _tile_zero(2);
    _tile_zero(3);
  }
  const std::uint8_t* at = codes.at;
  for (std::size_t k = 0; k < codes.depth; k += codes.columns, at += codes.columns * 32) {
    for (std::size_t limb = 0; limb < 2; ++limb) {
      const std::uint8_t *rows = limbs + limb * stride + k, *part = at + limb * kJoinedRows * 128;
      _tile_loadd(6, part, 128);
      _tile_loadd(4, rows, 2 * stride);
      CUTSET_TILE_DOT(0, 4, 6);
      _tile_loadd(7, part + 64, 128);
      CUTSET_TILE_DOT(1, 4, 7);
      if constexpr (kTwo) {
        _tile_loadd(5, rows + kTileRows16 * 2 * stride, 2 * stride);
        CUTSET_TILE_DOT(2, 5, 6);
        CUTSET_TILE_DOT(3, 5, 7);
      }
    }
  }
  _tile_stored(0, sums.of[0][0], 64);
  _tile_stored(1, sums.of[0][1], 64);
  if constexpr (kTwo) {
    _tile_stored(2, sums.of[1][0], 64);
    _tile_stored(3, sums.of[1][1], 64);
  }
}

using Multiply = void (*)(const std::uint8_t*, std::size_t, const Codes&, Sums&);

enum class Way { kShort, kTall, kJoined };
enum class Shift { kNone, kOne, kEach };  // of the sums: the zero times the sum of the row's integers

// Upper limbs times their radix. The shuffle leaves the only unit for floats alone, which a shift would take.
template <bool kWide>
inline Ints times_radix(Ints high) {
  if constexpr (!kWide) return left<4>(high);
  return _mm512_shuffle_epi8(
      high, _mm512_broadcast_i32x4(_mm_setr_epi8(-1, 0, 1, 2, -1, 4, 5, 6, -1, 8, 9, 10, -1, 12, 13, 14)));
}

// Adds the sums of kGroups groups from `g` on, of `count` rows, times their factors to totals[row][32]; joined ones of
// the 16 rows `block`.
template <Way kWay, bool kWide, Shift kShift, bool kMinima, std::size_t kGroups>
void add_groups(const Factors& factors, std::size_t g, std::int32_t zero, const std::int32_t* group_sums,
                std::size_t sum_stride, std::size_t count, const Sums* sums, std::size_t block,
                float (*totals)[kPanel]) {
  Vec scales[kGroups][2], minima[kGroups][2];
#pragma GCC unroll 4
  for (std::size_t i = 0; i < kGroups; ++i) {
#pragma GCC unroll 2
    for (std::size_t half = 0; half < 2; ++half) {
      scales[i][half] = load(factors.scales[g + i] + 16 * half);
      minima[i][half] = kMinima ? load(factors.minima[g + i] + 16 * half) : scales[i][half];
    }
  }
  for (std::size_t r = 0; r < count; ++r, group_sums += sum_stride) {
    Vec total[2] = {load(totals[r]), load(totals[r] + 16)};
#pragma GCC unroll 4
    for (std::size_t i = 0; i < kGroups; ++i) {
      const Ints shift = splat_int(kShift == Shift::kOne ? -zero * group_sums[i] : -group_sums[i]);
      const Vec sum_of_q = splat(static_cast<float>(group_sums[i]));
#pragma GCC unroll 2
      for (std::size_t half = 0; half < 2; ++half) {
        Ints sum;
        if constexpr (kWay == Way::kJoined) {
          sum = load_ints(sums[i].of[block][half][r]);
        } else {
          constexpr bool kInTurns = kWay == Way::kShort;
          const Ints high = load_ints(kInTurns ? sums[i].of[0][half][2 * r + 1] : sums[i].of[1][half][r]);
          sum = add(load_ints(sums[i].of[0][half][kInTurns ? 2 * r : r]), times_radix<kWide>(high));
        }
        if constexpr (kShift == Shift::kOne) sum = add(sum, shift);
        if constexpr (kShift == Shift::kEach) {
          sum = add(sum, times(load_ints(factors.zeros[g + i] + 16 * half), shift));
        }
        total[half] = fma(to_floats(sum), scales[i][half], total[half]);
        if constexpr (kMinima) total[half] = fma(sum_of_q, minima[i][half], total[half]);
      }
    }
    store(totals[r], total[0]);
    store(totals[r] + 16, total[1]);
  }
}

using Add = void (*)(const Factors&, std::size_t, std::int32_t, const std::int32_t*, std::size_t, std::size_t,
                     const Sums*, std::size_t, float (*)[kPanel]);

struct Adds {
  Add all, one;  // of the groups of a whole batch
};

template <Way kWay, bool kWide, Shift kShift, bool kMinima>
constexpr Adds kAdds = {add_groups<kWay, kWide, kShift, kMinima, kBatch>, add_groups<kWay, kWide, kShift, kMinima, 1>};

template <Way kWay, bool kWide, Shift kShift>
Adds adds_for(bool minima) {
  return minima ? kAdds<kWay, kWide, kShift, true> : kAdds<kWay, kWide, kShift, false>;
}

template <Way kWay, bool kWide>
Adds adds_for(const PanelForm& form, std::int32_t zero) {
  const bool minima = form.minima.kind != FactorKind::kNone;
  if (form.zeros) return adds_for<kWay, kWide, Shift::kEach>(minima);
  return zero ? adds_for<kWay, kWide, Shift::kOne>(minima) : adds_for<kWay, kWide, Shift::kNone>(minima);
}

Adds adds_for(const PanelForm& form, Way way, std::int32_t zero) {
  if (way == Way::kJoined) return adds_for<Way::kJoined, false>(form, zero);
  if (way == Way::kTall) return adds_for<Way::kTall, true>(form, zero);
  return wide_radix(form) ? adds_for<Way::kShort, true>(form, zero) : adds_for<Way::kShort, false>(form, zero);
}

// How some rows are multiplied: `height` at a time.
struct Plan {
  Way way;
  std::size_t height;
  Multiply multiply, last;  // `last` for no more than half of the rows
  Adds adds;
};

template <bool kSigned>
Plan plan_for(const PanelForm& form, std::size_t rows, std::int32_t zero) {
  if (rows <= kTileRows16 / 2) {
    const Multiply only = multiply_short<kSigned>;
    return {Way::kShort, kTileRows16 / 2, only, only, adds_for(form, Way::kShort, zero)};
  }
  if (wide_radix(form)) {
    const Multiply only = multiply_tall<kSigned>;
    return {Way::kTall, kTileRows16, only, only, adds_for(form, Way::kTall, zero)};
  }
  return {Way::kJoined, 2 * kTileRows16, multiply_joined<kSigned, true>, multiply_joined<kSigned, false>,
          adds_for(form, Way::kJoined, zero)};
}

}  // namespace

void grouped_tiles(const GroupedJob& job) {
  const PanelForm& form = *job.form;
  const std::size_t columns = tile_columns(form), stride = limb_stride(form.depth);
  const std::int32_t off = taken_off(form, job.count), zero = form.zero - off;
  const bool small = form.bits < 8 && !form.levels && (form.bits > 4 || job.count <= 8);  // signed and unsigned alike
  const bool is_signed = small || (form.levels || form.bits == 8 ? off == 128 : off == 8);
  const Plan plan = is_signed ? plan_for<true>(form, job.count, zero) : plan_for<false>(form, job.count, zero);
  const Unpack unpack = unpack_for(form, off, plan.way == Way::kJoined);
  const Taken taken = {form.levels ? table_of(form.level) : splat_int(0), _mm512_set1_epi8(static_cast<char>(off)),
                       _mm512_set1_epi8(static_cast<char>(16 * off))};
  std::size_t batch = kBatch, most = kRowsAtATime;
  while (batch * form.span > kBatchColumns) batch /= 2;
  while (most > 32 && most * 2 * stride > kCacheBytes) most -= 32;
  alignas(64) float totals[kRowsAtATime][kPanel];
  Sums sums[kBatch];
  Factors factors;
  alignas(64) std::uint8_t room[kJoinedRows + kBatchColumns / 4][2][64];
  const Shape shape(columns);
  _tile_loadconfig(&shape);
  for (std::size_t row = 0; row < job.count; row += most) {
    const std::size_t rows = job.count - row < most ? job.count - row : most;
    for (std::size_t at = 0; at < job.outputs; at += kPanel) {
      const std::uint8_t* panel = job.panels + at / kPanel * form.bytes;
      __builtin_memset(totals, 0, rows * sizeof totals[0]);
      for (std::size_t g = 0; g < form.groups; g += batch) {
        if (g % kGroupsAtATime == 0) {
          const std::size_t more = form.groups - g < kGroupsAtATime ? form.groups - g : kGroupsAtATime;
          grouped_factors(form, panel, g, more, factors);
          fetch_factors(form, panel, g + more, kGroupsAtATime);
        }
        const std::size_t groups = form.groups - g < batch ? form.groups - g : batch;
        Codes codes[kBatch];
        for (std::size_t i = 0; i < groups; ++i) {
          const std::size_t start = (g + i) * form.span;
          const std::uint8_t* slab = panel + start / kSlab * slab_bytes(form.bits);
          const Room own = room + i * form.span / 4;
          codes[i].depth = form.depth - start < form.span ? form.depth - start : form.span;
          codes[i].columns = columns;
          unpack(slab, codes[i].depth, taken, own);
          codes[i].at = form.bits == 8 && off == 0 ? slab : own[0][0];
        }
        for (std::size_t r = 0; r < rows; r += plan.height) {
          const std::size_t count = rows - r < plan.height ? rows - r : plan.height;
          const std::uint8_t* limbs = job.rows.limbs + (row + r) * 2 * stride + g * form.span;
          const Multiply multiply = count > plan.height / 2 ? plan.multiply : plan.last;
          for (std::size_t i = 0; i < groups; ++i) multiply(limbs + i * form.span, stride, codes[i], sums[i]);
          for (std::size_t block = 0; block * kTileRows16 < count; ++block) {
            const std::size_t first = block * kTileRows16;
            const std::size_t height = count - first < kTileRows16 ? count - first : kTileRows16;
            const std::int32_t* group_sums = job.rows.sums + (row + r + first) * form.groups + g;
            const std::size_t place = g % kGroupsAtATime;
            float (*to)[kPanel] = totals + r + first;
            if (groups == kBatch) {
              plan.adds.all(factors, place, zero, group_sums, form.groups, height, sums, block, to);
              continue;
            }
            for (std::size_t i = 0; i < groups; ++i) {
              plan.adds.one(factors, place + i, zero, group_sums + i, form.groups, height, sums + i, block, to);
            }
          }
        }
      }
      for (std::size_t r = 0; r < rows; ++r) {
        const float scale = job.rows.scales[row + r];
        float* y = job.y + (row + r) * job.stride + at;
        const std::size_t outputs = job.outputs - at < kPanel ? job.outputs - at : kPanel;
        for (std::size_t c = 0; c < outputs; ++c) y[c] = totals[r][c] * scale;
      }
    }
  }
  _tile_release();
}

}  // namespace cutset::CUTSET_ISA

#endif
