// From a reply to a site's output in one pass: canonical, unmasked, within bounds, right, scaled.
#include "kernels/isa/field.h"
#include "kernels/isa/prefetch.h"

namespace cutset::CUTSET_ISA {

namespace {

// What is needed of a block of columns, for all rows; zeros beyond the last.
template <std::size_t kChecks>
struct Columns {
  static constexpr bool kChecked = kChecks > 0;

  alignas(64) std::int32_t limits[kColumns];
  alignas(64) float scales[kColumns];
  PairTable<kChecked ? kChecks : 1> table;

  void fill(const SettleJob& job, std::size_t first, std::size_t n) {
    for (std::size_t c = 0; c < n; ++c) {
      const std::int64_t bound = job.bounds ? std::int64_t{job.top} * job.bounds[first + c] : kHalfPrime;
      const std::int64_t limit = bound < kHalfPrime ? bound : kHalfPrime;
      limits[c] = static_cast<std::int32_t>(limit < 0 ? 0 : limit);
      scales[c] = job.output_scales[first + c];
    }
    for (std::size_t c = n; c % kLanes != 0; ++c) {
      limits[c] = 0;
      scales[c] = 0;
    }
    if (kChecked) table.fill(job.secrets + first, job.outputs, n);
  }
};

struct Fault {
  int code = Verdict::kGood;
  std::size_t column = 0;
};

// z of kLanes replies. Gives a bit for each lane that isn't canonical or is out of bounds.
template <bool kMasked>
inline unsigned lift(Ints reply, const std::uint32_t* pad, Ints limit, Ints& z) {
  if constexpr (kMasked) {
    const Ints prime = splat_int(static_cast<std::int32_t>(kPrime));
    const Ints less = sub(reply, load_ints(pad));
    z = centred(least_unsigned(less, add(less, prime)));  // a negative number is large, unsigned
    return exceeding(reply, splat_int(static_cast<std::int32_t>(kPrime - 1))) | exceeding(size_of(z), limit);
  } else {
    z = reply;
    return exceeding(size_of(z), limit);
  }
}

template <bool kMasked>
[[gnu::noinline]] Fault fault_at(Ints reply, unsigned wrong, std::size_t column) {
  unsigned lane = 0;
  while (!(wrong >> lane & 1u)) ++lane;
  std::uint32_t values[kLanes];
  store_ints(values, reply);
  Fault fault;
  fault.code = kMasked && values[lane] >= kPrime ? Verdict::kNotCanonical : Verdict::kOutOfBounds;
  fault.column = column + lane;
  return fault;
}

// n columns of one row. `next` elements on is the next row, which is asked for. kPast: results leave the caches.
template <bool kMasked, std::size_t kChecks, bool kPast>
Fault settle_row(const std::uint32_t* reply, const std::uint32_t* pad, float row_scale, const Columns<kChecks>& columns,
                 std::size_t n, std::size_t next, float* out, std::uint64_t* totals) {
  const Vec scale = splat(row_scale);
  Sums<Columns<kChecks>::kChecked ? kChecks : 1> sums;
  sums.clear();
  std::size_t c = 0;
  for (; c + kLanes <= n; c += kLanes) {
    __builtin_prefetch(reply + next + c);
    if constexpr (kMasked) __builtin_prefetch(pad + next + c);
    if constexpr (!kPast) __builtin_prefetch(out + next + c, 1);
    const Ints raw = read_once(reply + c);
    Ints z;
    const unsigned wrong = lift<kMasked>(raw, pad + c, load_ints(columns.limits + c), z);
    if (__builtin_expect(wrong != 0, 0)) return fault_at<kMasked>(raw, wrong, c);
    const Vec scaled = mul(to_floats(z), mul(scale, load(columns.scales + c)));
    if constexpr (kPast) {
      store_past(out + c, as_bits(scaled));
    } else {
      store(out + c, scaled);
    }
    if constexpr (kChecks > 0) {
      sums.add_integers(z, columns.table.steps[c / kLanes]);
      if (c / kLanes % kRunOfIntegers == kRunOfIntegers - 1) sums.move_to(totals);
    }
  }
  if (c < n) {
    std::uint32_t replies[kLanes] = {}, pads[kLanes] = {};
    for (std::size_t i = 0; c + i < n; ++i) {
      replies[i] = *const_cast<const volatile std::uint32_t*>(reply + c + i);
      if (kMasked) pads[i] = pad[c + i];
    }
    const Ints raw = load_ints(replies);
    Ints z;
    const unsigned wrong = lift<kMasked>(raw, pads, load_ints(columns.limits + c), z);
    if (wrong != 0) return fault_at<kMasked>(raw, wrong, c);
    float values[kLanes];
    store(values, mul(to_floats(z), mul(scale, load(columns.scales + c))));
    __builtin_memcpy(out + c, values, (n - c) * sizeof(float));
    if constexpr (kChecks > 0) sums.add_integers(z, columns.table.steps[c / kLanes]);
  }
  if constexpr (kChecks > 0) sums.move_to(totals);
  return {};
}

template <bool kMasked, std::size_t kChecks, bool kPast>
Verdict settle_rows(const SettleJob& job) {
  Columns<kChecks> columns;
  std::uint64_t totals[kSettleRows][kMostChecks] = {};
  Verdict found{Verdict::kGood, 0, 0};
  std::size_t rows = job.rows;  // those before the first with a fault
  for (std::size_t first = 0; first < job.outputs; first += kColumns) {
    const std::size_t n = job.outputs - first < kColumns ? job.outputs - first : kColumns;
    columns.fill(job, first, n);
    for (std::size_t r = 0; r < rows; ++r) {
      const std::size_t at = r * job.outputs + first;
      const Fault fault =
          settle_row<kMasked, kChecks, kPast>(job.reply + at, kMasked ? job.pad + at : nullptr, job.row_scales[r],
                                              columns, n, job.outputs, job.out + at, totals[r]);
      if (fault.code != Verdict::kGood) {
        found = {fault.code, r, first + fault.column};
        rows = r;
      }
    }
  }
  if constexpr (kPast) stored();
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t i = 0; i < kChecks; ++i) {
      if (totals[r][i] % kPrime != job.expected[r * kChecks + i]) return {Verdict::kCheckFailed, r, 0};
    }
  }
  return found;
}

template <bool kMasked, std::size_t kChecks>
Verdict settle_any(const SettleJob& job) {
  // What is more than the caches keep is written past them: that saves reading what is overwritten.
  constexpr std::size_t kMuch = std::size_t{1} << 18;
  const bool aligned = reinterpret_cast<std::uintptr_t>(job.out) % sizeof(Ints) == 0 && job.outputs % kLanes == 0;
  return aligned && job.rows * job.outputs >= kMuch ? settle_rows<kMasked, kChecks, true>(job)
                                                    : settle_rows<kMasked, kChecks, false>(job);
}

}  // namespace

Verdict settle(const SettleJob& job) {
  if (job.pad) {
    return (job.checks == 0 ? settle_any<true, 0> : job.checks == 1 ? settle_any<true, 1> : settle_any<true, 2>)(job);
  }
  return (job.checks == 0 ? settle_any<false, 0> : job.checks == 1 ? settle_any<false, 1> : settle_any<false, 2>)(job);
}

}  // namespace cutset::CUTSET_ISA
