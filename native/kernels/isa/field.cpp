// Masks, products with residues, Freivalds vectors. See isa/field.h for how sums are made.
#include "kernels/isa/field.h"

namespace cutset::CUTSET_ISA {

namespace {

const std::int32_t kPrimeBits = static_cast<std::int32_t>(kPrime);

// Limbs of v for 2 * kLanes columns a step: the halves are columns. Zeros beyond the last.
template <std::size_t kVectors>
struct ColumnTable {
  alignas(64) Words<kVectors> steps[kSteps / 2];

  void fill(const std::uint32_t* residues, std::size_t stride, std::size_t n) {
    for (std::size_t c = 0; c < (n + 2 * kLanes - 1) / (2 * kLanes) * (2 * kLanes); c += kLanes) {
      for (std::size_t v = 0; v < kVectors; ++v) {
        Ints limbs[kLimbs];
        cut(centred(padded(residues + v * stride, c, n)), limbs);
        for (std::size_t i = 0; i < kLimbs; ++i) {
          std::int32_t wide[kLanes];
          store_ints(wide, limbs[i]);
          std::int16_t* at = steps[c / (2 * kLanes)].limb[v][i] + c % (2 * kLanes);
          for (std::size_t k = 0; k < kLanes; ++k) at[k] = static_cast<std::int16_t>(wide[k]);
        }
      }
    }
  }
};

// The kinds of x: how many columns a step takes, and how it is added.
template <std::size_t kVectors>
struct Shorts {
  using Integer = std::int16_t;
  using Table = ColumnTable<kVectors>;
  static constexpr std::size_t kStep = 2 * kLanes, kRun = kRunOfShorts;
  static void add_step(Sums<kVectors>& sums, const Integer* x, const Words<kVectors>& words) {
    sums.add_words(load_ints(x), words);
  }
};

template <std::size_t kVectors, class Type>
struct Longs {
  using Integer = Type;
  using Table = PairTable<kVectors>;
  static constexpr std::size_t kStep = kLanes, kRun = kRunOfIntegers;
  static void add_step(Sums<kVectors>& sums, const Integer* x, const Words<kVectors>& words) {
    // The top bit counts 2^31 = 1, or -2^31 = -1.
    const Ints bits = load_ints(x), top = right<31>(bits), rest = centred(both(bits, splat_int(kPrimeBits)));
    const bool is_signed = static_cast<Type>(-1) < 0;
    sums.add_integers(is_signed ? sub(rest, top) : add(rest, top), words);
  }
};

// n columns of one row, added to `totals`.
template <class Kind, std::size_t kVectors>
void add_row(const typename Kind::Integer* x, std::size_t n, const typename Kind::Table& table, std::uint64_t* totals) {
  Sums<kVectors> sums;
  sums.clear();
  std::size_t step = 0;
  for (; (step + 1) * Kind::kStep <= n; ++step) {
    Kind::add_step(sums, x + step * Kind::kStep, table.steps[step]);
    if (step % Kind::kRun == Kind::kRun - 1) sums.move_to(totals);
  }
  if (step * Kind::kStep < n) {
    typename Kind::Integer room[Kind::kStep] = {};
    __builtin_memcpy(room, x + step * Kind::kStep, (n - step * Kind::kStep) * sizeof room[0]);
    Kind::add_step(sums, room, table.steps[step]);
  }
  sums.move_to(totals);
}

constexpr std::size_t kRowsAtOnce = 64;

template <class Kind, std::size_t kVectors>
void dots_of(const typename Kind::Integer* x, std::size_t rows, std::size_t depth, const std::uint32_t* v,
             std::uint32_t* out, std::size_t stride) {
  typename Kind::Table table;
  for (std::size_t first = 0; first < rows; first += kRowsAtOnce) {
    const std::size_t count = rows - first < kRowsAtOnce ? rows - first : kRowsAtOnce;
    std::uint64_t totals[kRowsAtOnce][kVectors] = {};
    for (std::size_t c = 0; c < depth; c += kColumns) {
      const std::size_t n = depth - c < kColumns ? depth - c : kColumns;
      table.fill(v + c, depth, n);
      for (std::size_t r = 0; r < count; ++r) {
        add_row<Kind, kVectors>(x + (first + r) * depth + c, n, table, totals[r]);
      }
    }
    for (std::size_t r = 0; r < count; ++r) {
      for (std::size_t i = 0; i < kVectors; ++i) {
        out[(first + r) * stride + i] = static_cast<std::uint32_t>(totals[r][i] % kPrime);
      }
    }
  }
}

// Two rows of weights as the halves of lanes, n of which exist.
inline Ints two_weights(const std::int8_t* upper, const std::int8_t* lower, std::size_t n) {
  if (n >= kLanes) return halves(widen(upper), left<16>(widen(lower)));
  std::int8_t room[2][kLanes] = {};
  __builtin_memcpy(room[0], upper, n);
  __builtin_memcpy(room[1], lower, n);
  return halves(widen(room[0]), left<16>(widen(room[1])));
}

constexpr std::size_t kPairs = 2;       // of rows that go through the sums together
constexpr std::size_t kPairsRun = 256;  // each gives 2 * 127 * 2^15 at most: just below 2^31

// Freivalds vectors of kColumns columns at most: s as a low half and a high one, each a factor of 16 bits.
template <std::size_t kVectors>
struct Projection {
  alignas(64) std::int32_t sums[kVectors][2][kColumns];
  std::int64_t totals[kVectors][kColumns];

  void move(std::size_t n) {
    for (std::size_t v = 0; v < kVectors; ++v) {
      for (std::size_t c = 0; c < n; ++c) {
        totals[v][c] += sums[v][0][c] + std::int64_t{sums[v][1][c]} * 65536;
        sums[v][0][c] = sums[v][1][c] = 0;
      }
    }
  }

  // Rows row .. row + 2 * kPairs - 1 of which those below `outputs` exist.
  void add_rows(const std::int8_t* weight, std::size_t row, std::size_t outputs, std::size_t depth, std::size_t n,
                const std::uint32_t* s) {
    const std::int8_t* rows[kPairs][2];
    Ints factors[kPairs][kVectors][2];
    for (std::size_t p = 0; p < kPairs; ++p) {
      std::uint32_t words[kVectors][2] = {};
      for (std::size_t i = 0; i < 2; ++i) {
        const std::size_t at = row + 2 * p + i;
        rows[p][i] = weight + (at < outputs ? at : row) * depth;
        for (std::size_t v = 0; at < outputs && v < kVectors; ++v) {
          const std::int64_t value = s[v * outputs + at], integer = value > kHalfPrime ? value - kPrime : value;
          const std::int16_t low = static_cast<std::int16_t>(integer & 0xFFFF);
          const std::int16_t high = static_cast<std::int16_t>((integer - low) >> 16);
          words[v][0] |= std::uint32_t{static_cast<std::uint16_t>(low)} << (16 * i);
          words[v][1] |= std::uint32_t{static_cast<std::uint16_t>(high)} << (16 * i);
        }
      }
      for (std::size_t v = 0; v < kVectors; ++v) {
        for (std::size_t h = 0; h < 2; ++h) factors[p][v][h] = splat_int(static_cast<std::int32_t>(words[v][h]));
      }
    }
    for (std::size_t c = 0; c < n; c += kLanes) {
      Ints pair[kPairs];
#pragma GCC unroll 2
      for (std::size_t p = 0; p < kPairs; ++p) pair[p] = two_weights(rows[p][0] + c, rows[p][1] + c, n - c);
#pragma GCC unroll 2
      for (std::size_t v = 0; v < kVectors; ++v) {
#pragma GCC unroll 2
        for (std::size_t h = 0; h < 2; ++h) {
          Ints sum = load_ints(sums[v][h] + c);
#pragma GCC unroll 2
          for (std::size_t p = 0; p < kPairs; ++p) sum = dot_halves(sum, pair[p], factors[p][v][h]);
          store_ints(sums[v][h] + c, sum);
        }
      }
    }
  }
};

template <std::size_t kVectors>
void project_columns(const std::int8_t* weight, std::size_t outputs, std::size_t depth, std::size_t n,
                     const std::uint32_t* s, std::uint32_t* out) {
  Projection<kVectors> work{};
  std::size_t pairs = 0;
  for (std::size_t row = 0; row < outputs; row += 2 * kPairs, pairs += kPairs) {
    if (pairs == kPairsRun) {
      work.move(n);
      pairs = 0;
    }
    work.add_rows(weight, row, outputs, depth, n, s);
  }
  work.move(n);
  for (std::size_t v = 0; v < kVectors; ++v) {
    for (std::size_t c = 0; c < n; ++c) {
      const std::int64_t rest = work.totals[v][c] % std::int64_t{kPrime};
      out[v * depth + c] = static_cast<std::uint32_t>(rest < 0 ? rest + kPrime : rest);
    }
  }
}

}  // namespace

namespace {

// kPast: the sums leave the caches, and rows of pads, which nobody has read before, are asked for ahead.
template <bool kPast>
std::size_t mask_vectors(const std::int16_t* q, const std::uint32_t* r, std::size_t n, std::uint32_t* out) {
  constexpr std::size_t kAhead = 512;  // elements; found by measurement
  const Ints prime = splat_int(kPrimeBits);
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    if constexpr (kPast) __builtin_prefetch(r + i + kAhead);
    const Ints integer = widen(q + i);
    // Unsigned, the one that is in range is the lesser one: a negative number is large.
    const Ints residue = least_unsigned(integer, add(integer, prime));
    const Ints sum = add(residue, load_ints(r + i));
    const Ints masked = least_unsigned(sum, sub(sum, prime));
    if constexpr (kPast) {
      store_past(out + i, masked);
    } else {
      store_ints(out + i, masked);
    }
  }
  if constexpr (kPast) stored();
  return i;
}

}  // namespace

void mask(const std::int16_t* q, const std::uint32_t* r, std::size_t n, std::uint32_t* out) {
  // Much is for another core, which reads it when it isn't in this one's caches any more.
  constexpr std::size_t kMuch = std::size_t{1} << 15;
  const bool past = n >= kMuch && reinterpret_cast<std::uintptr_t>(out) % sizeof(Ints) == 0;
  for (std::size_t i = (past ? mask_vectors<true> : mask_vectors<false>)(q, r, n, out); i < n; ++i) {
    out[i] = residue_of(std::int64_t{q[i]} + r[i]);
  }
}

void dots_i16(const std::int16_t* x, std::size_t rows, std::size_t depth, const std::uint32_t* v, std::size_t vectors,
              std::uint32_t* out, std::size_t stride) {
  (vectors == 1 ? dots_of<Shorts<1>, 1> : dots_of<Shorts<2>, 2>)(x, rows, depth, v, out, stride);
}

void dots_i32(const std::int32_t* x, std::size_t rows, std::size_t depth, const std::uint32_t* v, std::size_t vectors,
              std::uint32_t* out, std::size_t stride) {
  (vectors == 1 ? dots_of<Longs<1, std::int32_t>, 1> : dots_of<Longs<2, std::int32_t>, 2>)(x, rows, depth, v, out,
                                                                                           stride);
}

void dots_u32(const std::uint32_t* x, std::size_t rows, std::size_t depth, const std::uint32_t* v, std::size_t vectors,
              std::uint32_t* out, std::size_t stride) {
  (vectors == 1 ? dots_of<Longs<1, std::uint32_t>, 1> : dots_of<Longs<2, std::uint32_t>, 2>)(x, rows, depth, v, out,
                                                                                             stride);
}

void project(const std::int8_t* weight, std::size_t outputs, std::size_t depth, std::size_t first, std::size_t end,
             const std::uint32_t* s, std::size_t vectors, std::uint32_t* out) {
  for (std::size_t c = first; c < end; c += kColumns) {
    const std::size_t n = end - c < kColumns ? end - c : kColumns;
    (vectors == 1 ? project_columns<1> : project_columns<2>)(weight + c, outputs, depth, n, s, out + c);
  }
}

}  // namespace cutset::CUTSET_ISA
