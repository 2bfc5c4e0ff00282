// Products of grouped weights with AMX tiles: the rows' integers in two signed bytes (q = low + 64 high) times codes as
// unsigned bytes, summed over a group in int32; then the factors, as everywhere.
#include "kernels/isa/grouped_codes.h"

#if defined(CUTSET_ISA_amx)

namespace cutset::CUTSET_ISA {

namespace {

constexpr std::size_t kTileRows16 = 16, kRowsAtATime = 64;
constexpr std::size_t kTileLeast = 6;  // with fewer rows a tile is mostly empty

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

// An odd number of cache lines, so that rows don't fall into the same sets of the cache.
std::size_t limb_stride(std::size_t depth) { return round_up(depth, 128) + 64; }

std::size_t tile_columns(const PanelForm& form) {
  std::size_t columns = 64;
  while (form.span % columns != 0 || form.depth % columns != 0) columns /= 2;
  return columns;
}

// So many groups are taken together: what one instruction wrote is read when it has long been in the cache.
constexpr std::size_t kBatch = 4;

// A group's codes as tiles read them: [step][64] of outputs 0 to 15 and of 16 to 31.
struct Codes {
  const std::uint8_t *low, *high;
  std::size_t stride;
};

// Lines of outputs 0 to 15 and of 16 to 31 in turns, those of a batch one after the other: whatever lies 4 KiB apart
// would get into each other's way.
using Room = std::uint8_t (*)[2][64];

// Codes less `zero`, as signed bytes.
template <int kBits, bool kLevels, int kStep>
inline void put_bytes(const std::uint8_t* slab, Ints table, Ints zero, Room room, std::size_t step) {
  Ints low, high;
  if constexpr (kBits == 4 && !kLevels) {
    const Ints x = load_ints(slab + kStep * 64), nibbles = splat_int(0x0F0F0F0F);
    low = both(x, nibbles);
    high = both(right<4>(x), nibbles);
  } else {
    const Quad quad = widened<kBits, kLevels, kStep>(slab, 0, table);
    low = either(quad.low0, left<8>(quad.low1));
    high = either(quad.high0, left<8>(quad.high1));
  }
  store_ints(room[step + kStep][0], _mm512_sub_epi8(low, zero));
  store_ints(room[step + kStep][1], _mm512_sub_epi8(high, zero));
}

template <int kBits, bool kLevels>
Codes unpacked(const std::uint8_t* slab, std::size_t columns, Ints table, Ints zero, Room room) {
  constexpr std::size_t kFar = 6144;
  for (std::size_t k = 0; k < columns; k += kSlab, slab += slab_bytes(kBits)) {
    for (std::size_t at = 0; at < slab_bytes(kBits); at += 64) __builtin_prefetch(slab + kFar + at, 0, 2);
    if constexpr (kBits < 8) {
      put_bytes<kBits, kLevels, 0>(slab, table, zero, room, k / 4);
      put_bytes<kBits, kLevels, 1>(slab, table, zero, room, k / 4);
      put_bytes<kBits, kLevels, 2>(slab, table, zero, room, k / 4);
      put_bytes<kBits, kLevels, 3>(slab, table, zero, room, k / 4);
    }
  }
  if constexpr (kBits < 8) return {room[0][0], room[0][1], 128};
  slab -= columns / kSlab * slab_bytes(kBits);
  return {slab, slab + 64, 128};
}

using Unpack = Codes (*)(const std::uint8_t*, std::size_t, Ints, Ints, Room);

Unpack unpack_for(const PanelForm& form) {
  if (form.levels) return unpacked<4, true>;
  if (form.bits == 4) return unpacked<4, false>;
  if (form.bits == 5) return unpacked<5, false>;
  return form.bits == 6 ? unpacked<6, false> : unpacked<8, false>;
}

// Codes that are unpacked become signed bytes, less the zero that all groups share: 0 where that isn't one.
std::int32_t taken_off(const PanelForm& form) {
  if (form.bits == 8 || form.zero > 128) return 0;
  return form.zero;
}

// [limb][half of the outputs][row] of 16 sums. Of up to 8 rows the limbs lie in one tile, in turns.
struct alignas(64) Sums {
  std::int32_t of[2][2][kTileRows16][16];
  std::int32_t apart[32];
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

template <bool kSigned>
void multiply_tall(const std::uint8_t* limbs, std::size_t stride, const Codes& codes, std::size_t depth,
                   std::size_t columns, Sums& sums) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::size_t k = 0; k < depth; k += columns) {
    _tile_loadd(6, codes.low + k / 4 * codes.stride, codes.stride);
    _tile_loadd(4, limbs + k, 2 * stride);
    CUTSET_TILE_DOT(0, 4, 6);
    _tile_loadd(7, codes.high + k / 4 * codes.stride, codes.stride);
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

template <bool kSigned>
void multiply_short(const std::uint8_t* limbs, std::size_t stride, const Codes& codes, std::size_t depth,
                    std::size_t columns, Sums& sums) {
  _tile_zero(0);
  _tile_zero(1);
  for (std::size_t k = 0; k < depth; k += columns) {
    _tile_loadd(4, limbs + k, stride);
    _tile_loadd(6, codes.low + k / 4 * codes.stride, codes.stride);
    CUTSET_TILE_DOT(0, 4, 6);
    _tile_loadd(7, codes.high + k / 4 * codes.stride, codes.stride);
    CUTSET_TILE_DOT(1, 4, 7);
  }
  _tile_stored(0, sums.of[0][0], 64);
  _tile_stored(1, sums.of[0][1], 64);
}

using Multiply = void (*)(const std::uint8_t*, std::size_t, const Codes&, std::size_t, std::size_t, Sums&);

enum class Shift { kNone, kOne, kEach };  // of the sums: the zero times the sum of the row's integers

// Adds the sums of a batch of groups from `g` on, of `count` rows, times their factors to totals[row][32].
template <bool kTall, Shift kShift, bool kMinima>
void add_groups(const Factors& factors, std::size_t g, std::size_t groups, std::int32_t zero,
                const std::int32_t* group_sums, std::size_t sum_stride, std::size_t count, const Sums* sums,
                float (*totals)[kPanel]) {
  for (std::size_t r = 0; r < count; ++r, group_sums += sum_stride) {
    Vec total[2] = {load(totals[r]), load(totals[r] + 16)};
    for (std::size_t i = 0; i < groups; ++i) {
      const Ints shift = splat_int(kShift == Shift::kOne ? -zero * group_sums[i] : -group_sums[i]);
      const Vec sum_of_q = splat(static_cast<float>(group_sums[i]));
#pragma GCC unroll 2
      for (std::size_t half = 0; half < 2; ++half) {
        Ints low = load_ints(kTall ? sums[i].of[0][half][r] : sums[i].of[0][half][2 * r]);
        const Ints high = load_ints(kTall ? sums[i].of[1][half][r] : sums[i].of[0][half][2 * r + 1]);
        if constexpr (kShift == Shift::kOne) low = add(low, shift);
        if constexpr (kShift == Shift::kEach) {
          low = add(low, times(load_ints(factors.zeros[g + i] + 16 * half), shift));
        }
        const Ints sum = add(low, left<6>(high));
        total[half] = fma(to_floats(sum), load(factors.scales[g + i] + 16 * half), total[half]);
        if constexpr (kMinima) total[half] = fma(sum_of_q, load(factors.minima[g + i] + 16 * half), total[half]);
      }
    }
    store(totals[r], total[0]);
    store(totals[r] + 16, total[1]);
  }
}

using Add = void (*)(const Factors&, std::size_t, std::size_t, std::int32_t, const std::int32_t*, std::size_t,
                     std::size_t, const Sums*, float (*)[kPanel]);

template <bool kTall, Shift kShift>
Add add_for(bool minima) {
  return minima ? add_groups<kTall, kShift, true> : add_groups<kTall, kShift, false>;
}

template <bool kTall>
Add add_for(const PanelForm& form, std::int32_t zero) {
  const bool minima = form.minima.kind != FactorKind::kNone;
  if (form.zeros) return add_for<kTall, Shift::kEach>(minima);
  return zero ? add_for<kTall, Shift::kOne>(minima) : add_for<kTall, Shift::kNone>(minima);
}

}  // namespace

std::size_t grouped_limb_bytes(const PanelForm& form, std::size_t rows) {
  return rows < kTileLeast ? 0 : 2 * limb_stride(form.depth);
}

void grouped_limbs(const std::int16_t* q, std::size_t depth, std::uint8_t* limbs) {
  const __m512i thirty_two = _mm512_set1_epi16(32), mask = _mm512_set1_epi16(63);
  const __m256i order =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15));
  for (std::size_t k = 0; k < depth; k += 32) {
    const __mmask32 there = depth - k < 32 ? (1u << (depth - k)) - 1 : 0xFFFFFFFFu;
    const __m512i value = _mm512_add_epi16(_mm512_maskz_loadu_epi16(there, q + k), thirty_two);
    const __m512i low = _mm512_sub_epi16(_mm512_and_si512(value, mask), thirty_two);
    const __m512i high = _mm512_srai_epi16(value, 6);
    const __m256i both_limbs[2] = {_mm512_cvtepi16_epi8(low), _mm512_cvtepi16_epi8(high)};
    for (std::size_t limb = 0; limb < 2; ++limb) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(limbs + limb * limb_stride(depth) + k),
                          _mm256_shuffle_epi8(both_limbs[limb], order));
    }
  }
}

void grouped_tiles(const GroupedJob& job) {
  const PanelForm& form = *job.form;
  const std::size_t columns = tile_columns(form), stride = limb_stride(form.depth);
  const Shape shape(columns);
  const Unpack unpack = unpack_for(form);
  const std::int32_t off = form.zeros ? 0 : taken_off(form), zero = form.zero - off;
  const bool is_signed = form.bits < 8 && (!form.levels || off == 128);
  const Multiply tall = is_signed ? multiply_tall<true> : multiply_tall<false>;
  const Multiply flat = is_signed ? multiply_short<true> : multiply_short<false>;
  const Add add_tall = add_for<true>(form, zero), add_flat = add_for<false>(form, zero);
  const Ints table = form.levels ? table_of(form.level) : splat_int(0);
  const Ints zeros = _mm512_set1_epi8(static_cast<char>(off));
  alignas(64) float totals[kRowsAtATime][kPanel];
  Sums sums[kBatch];
  Factors factors;
  alignas(64) std::uint8_t room[kBatch * kMostSpan / 4][2][64];
  _tile_loadconfig(&shape);
  for (std::size_t at = 0; at < job.outputs; at += kPanel) {
    const std::uint8_t* panel = job.panels + at / kPanel * form.bytes;
    const std::size_t outputs = job.outputs - at < kPanel ? job.outputs - at : kPanel;
    for (std::size_t row = 0; row < job.count; row += kRowsAtATime) {
      const std::size_t rows = job.count - row < kRowsAtATime ? job.count - row : kRowsAtATime;
      __builtin_memset(totals, 0, rows * sizeof totals[0]);
      for (std::size_t g = 0; g < form.groups; g += kBatch) {
        if (g % kGroupsAtATime == 0) {
          const std::size_t more = form.groups - g < kGroupsAtATime ? form.groups - g : kGroupsAtATime;
          grouped_factors(form, panel, g, more, factors);
        }
        const std::size_t groups = form.groups - g < kBatch ? form.groups - g : kBatch;
        Codes codes[kBatch];
        std::size_t depths[kBatch];
        for (std::size_t i = 0; i < groups; ++i) {
          const std::size_t start = (g + i) * form.span;
          depths[i] = form.depth - start < form.span ? form.depth - start : form.span;
          codes[i] =
              unpack(panel + start / kSlab * slab_bytes(form.bits), depths[i], table, zeros, room + i * form.span / 4);
        }
        for (std::size_t r = 0; r < rows; r += kTileRows16) {
          const std::size_t count = rows - r < kTileRows16 ? rows - r : kTileRows16;
          const bool is_tall = count > kTileRows16 / 2;
          const std::uint8_t* limbs = job.rows.limbs + (row + r) * 2 * stride + g * form.span;
          for (std::size_t i = 0; i < groups; ++i, limbs += form.span) {
            (is_tall ? tall : flat)(limbs, stride, codes[i], depths[i], columns, sums[i]);
          }
          (is_tall ? add_tall : add_flat)(factors, g % kGroupsAtATime, groups, zero,
                                          job.rows.sums + (row + r) * form.groups + g, form.groups, count, sums,
                                          totals + r);
        }
      }
      for (std::size_t r = 0; r < rows; ++r) {
        const float scale = job.rows.scales[row + r];
        float* y = job.y + (row + r) * job.stride + at;
        for (std::size_t c = 0; c < outputs; ++c) y[c] = totals[r][c] * scale;
      }
    }
  }
  _tile_release();
}

}  // namespace cutset::CUTSET_ISA

#endif
