// Products of grouped weights with AMX tiles: the rows' integers in two signed bytes times codes as bytes, summed over
// a group in int32; then the factors, as everywhere.
//
// A tile that leaves takes as long as a product, however few rows it has. So the limbs of up to 8 rows lie in one tile,
// in turns (short). Of more rows (tall) the limbs have a tile each; but codes of 4 bits are joined: 16 times the code
// is a byte too, and one tile sums up both limbs. With tiles at work only one unit converts and multiplies floats,
// which bounds the rest; so the limbs of wider codes are put together by instructions that another unit has.
#include "kernels/isa/grouped_bytes.h"
#include "kernels/isa/grouped_units.h"

#if defined(CUTSET_ISA_amx)

namespace cutset::CUTSET_ISA {

namespace {

constexpr std::size_t kRowsAtATime = 128;
constexpr std::size_t kCacheBytes = std::size_t{1} << 20;  // of rows' limbs that see all panels before the next ones do

std::size_t tile_columns(const PanelForm& form) {
  std::size_t columns = 64;
  while (form.span % columns != 0 || form.depth % columns != 0) columns /= 2;
  return columns;
}

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

constexpr std::size_t kFar = 6144;  // bytes

struct Taken {
  Ints table, off, off16;
};

void unpack_joined(const std::uint8_t* slab, std::size_t depth, const Taken& taken, Room room) {
  for (std::size_t k = 0; k < depth; k += kSlab, slab += slab_bytes(4), room += kSlab / 4) {
    put_joined<0>(slab, taken.off, taken.off16, room, room + kJoinedRows);
    put_joined<1>(slab, taken.off, taken.off16, room, room + kJoinedRows);
    put_joined<2>(slab, taken.off, taken.off16, room, room + kJoinedRows);
    put_joined<3>(slab, taken.off, taken.off16, room, room + kJoinedRows);
  }
}

template <int kBits, bool kLevels>
void unpack_plain(const std::uint8_t* slab, std::size_t depth, const Taken& taken, Room room) {
  for (std::size_t k = 0; k < depth; k += kSlab, slab += slab_bytes(kBits), room += kSlab / 4) {
    put_plain<kBits, kLevels, 0>(slab, taken.table, taken.off, room);
    put_plain<kBits, kLevels, 1>(slab, taken.table, taken.off, room);
    put_plain<kBits, kLevels, 2>(slab, taken.table, taken.off, room);
    put_plain<kBits, kLevels, 3>(slab, taken.table, taken.off, room);
  }
}

using Unpack = void (*)(const std::uint8_t*, std::size_t, const Taken&, Room);

// None for codes that are used where they are.
Unpack unpack_for(const PanelForm& form, std::int32_t off, bool joined) {
  if (joined) return unpack_joined;
  if (form.levels) return unpack_plain<4, true>;
  if (form.bits == 4) return unpack_plain<4, false>;
  if (form.bits == 5) return unpack_plain<5, false>;
  if (form.bits == 6) return unpack_plain<6, false>;
  return off ? unpack_plain<8, false> : nullptr;
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

enum class Shift { kNone, kOne, kEach };  // of the sums: the zero times the sum of the row's integers

// Upper limbs times their radix. The shuffle leaves the only unit for floats alone, which a shift would take.
template <bool kWide>
inline Ints times_radix(Ints high) {
  if constexpr (!kWide) return left<4>(high);
  return _mm512_shuffle_epi8(
      high, _mm512_broadcast_i32x4(_mm_setr_epi8(-1, 0, 1, 2, -1, 4, 5, 6, -1, 8, 9, 10, -1, 12, 13, 14)));
}

// Adds the sums of kGroups groups from `g` on, of `count` rows, times their factors to totals[row][32].
template <Way kWay, bool kWide, Shift kShift, bool kMinima, std::size_t kGroups>
void add_groups(const Factors& factors, std::size_t g, std::int32_t zero, const std::int32_t* group_sums,
                std::size_t sum_stride, std::size_t count, const Unit* units, float (*totals)[kPanel]) {
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
        const Unit* unit = units + i * units_of(kWay) + half;
        Ints sum = load_ints(unit->of[kWay == Way::kShort ? 2 * r : r]);
        if constexpr (kWay == Way::kShort) sum = add(sum, times_radix<kWide>(load_ints(unit->of[2 * r + 1])));
        if constexpr (kWay == Way::kTall) sum = add(sum, times_radix<kWide>(load_ints(unit[2].of[r])));
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
                     const Unit*, float (*)[kPanel]);

template <Way kWay, bool kWide, Shift kShift, std::size_t kGroups>
Add add_for(bool minima) {
  return minima ? add_groups<kWay, kWide, kShift, true, kGroups> : add_groups<kWay, kWide, kShift, false, kGroups>;
}

template <Way kWay, bool kWide, std::size_t kGroups>
Add add_for(const PanelForm& form, std::int32_t zero) {
  const bool minima = form.minima.kind != FactorKind::kNone;
  if (form.zeros) return add_for<kWay, kWide, Shift::kEach, kGroups>(minima);
  return zero ? add_for<kWay, kWide, Shift::kOne, kGroups>(minima)
              : add_for<kWay, kWide, Shift::kNone, kGroups>(minima);
}

// How a batch of some groups is computed.
struct Step {
  SumBatch sum;
  Add add;
  std::size_t units;
};

template <bool kSigned, Way kWay, std::size_t kGroups>
Step step_for(const PanelForm& form, std::int32_t zero) {
  const bool wide = wide_radix(form);
  Add add;
  if constexpr (kWay == Way::kShort) {
    add = wide ? add_for<kWay, true, kGroups>(form, zero) : add_for<kWay, false, kGroups>(form, zero);
  } else {
    add = add_for<kWay, kWay == Way::kTall, kGroups>(form, zero);
  }
  return {sum_batch<kSigned, kWay, kGroups>, add, units_of(kWay, kGroups)};
}

// How some rows are multiplied.
struct Plan {
  Way way;
  std::size_t height;  // rows of a tile
  std::size_t most;    // groups of a batch
  Step steps[3];       // of 1, 2 and 4 groups
};

template <bool kSigned>
Plan plan_for(const PanelForm& form, std::size_t rows, std::int32_t zero) {
  if (rows <= kTileRows16 / 2) {
    constexpr Way kWay = Way::kShort;
    return {kWay,
            kTileRows16 / 2,
            kBatch,
            {step_for<kSigned, kWay, 1>(form, zero), step_for<kSigned, kWay, 2>(form, zero),
             step_for<kSigned, kWay, 4>(form, zero)}};
  }
  if (wide_radix(form)) {
    constexpr Way kWay = Way::kTall;
    return {kWay,
            kTileRows16,
            kBatch / 2,
            {step_for<kSigned, kWay, 1>(form, zero), step_for<kSigned, kWay, 2>(form, zero), {}}};
  }
  constexpr Way kWay = Way::kJoined;
  return {kWay,
          kTileRows16,
          kBatch,
          {step_for<kSigned, kWay, 1>(form, zero), step_for<kSigned, kWay, 2>(form, zero),
           step_for<kSigned, kWay, 4>(form, zero)}};
}

// Rows of a batch whose sums are there, or will be when the next ones are, and haven't been added.
struct Pending {
  const Step* step = nullptr;
  Unit* units;
  std::size_t first, row, rows;  // of the groups, of the rows at hand

  Unit* last() const { return units + step->units - 3; }
};

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
  const std::size_t group_bytes = form.span / kSlab * slab_bytes(form.bits);
  std::size_t batch = plan.most, most = kRowsAtATime;
  while (batch * form.span > kBatchColumns) batch /= 2;
  while (most > 32 && most * 2 * stride > kCacheBytes) most -= 16;
  alignas(64) float totals[kRowsAtATime][kPanel];
  Sums sums[2];
  Factors factors;
  alignas(64) std::uint8_t room[kJoinedRows + kBatchColumns / 4][2][64];
  const Shape shape(columns);
  _tile_loadconfig(&shape);
  for (std::size_t row = 0; row < job.count; row += most) {
    const std::size_t rows = job.count - row < most ? job.count - row : most;
    const std::size_t share = (rows + plan.height - 1) / plan.height * 64, lines = (group_bytes + share - 1) / share;
    for (std::size_t at = 0; at < job.outputs; at += kPanel) {
      const std::uint8_t* panel = job.panels + at / kPanel * form.bytes;
      __builtin_memset(totals, 0, rows * sizeof totals[0]);
      Pending pending;
      std::size_t turn = 0, widened = form.groups;
      const auto add_pending = [&] {
        const std::size_t chunk = pending.first / kGroupsAtATime * kGroupsAtATime;
        if (chunk != widened) {
          const std::size_t more = form.groups - chunk < kGroupsAtATime ? form.groups - chunk : kGroupsAtATime;
          grouped_factors(form, panel, chunk, more, factors);
          fetch_factors(form, panel, chunk + more, kGroupsAtATime);
          widened = chunk;
        }
        const std::int32_t* group_sums = job.rows.sums + (row + pending.row) * form.groups + pending.first;
        pending.step->add(factors, pending.first - chunk, zero, group_sums, form.groups, pending.rows, pending.units,
                          totals + pending.row);
      };
      for (std::size_t g = 0, groups = batch; g < form.groups; g += groups) {
        while (g + groups > form.groups) groups /= 2;
        Codes codes[kBatch];
        for (std::size_t i = 0; i < groups; ++i) {
          const std::size_t start = (g + i) * form.span;
          const std::uint8_t* slab = panel + start / kSlab * slab_bytes(form.bits);
          const Room own = room + i * form.span / 4;
          codes[i].depth = form.depth - start < form.span ? form.depth - start : form.span;
          if (unpack) unpack(slab, codes[i].depth, taken, own);
          codes[i].at = unpack ? own[0][0] : slab;
        }
        Operands in = {nullptr, stride, form.span, columns, codes, panel + g * group_bytes + kFar, lines};
        const Step& step = plan.steps[groups / 2];
        for (std::size_t r = 0; r < rows; r += plan.height, turn = 1 - turn, in.fetch += groups * in.lines * 64) {
          in.limbs = job.rows.limbs + (row + r) * 2 * stride + g * form.span;
          step.sum(in, sums[turn].units, pending.step ? pending.last() : sums[1 - turn].units);
          if (pending.step) add_pending();
          pending = {&step, sums[turn].units, g, r, rows - r < plan.height ? rows - r : plan.height};
        }
      }
      last_units_leave(pending.last());
      add_pending();
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
