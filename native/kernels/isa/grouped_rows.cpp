// What the products of grouped weights take: rows as integers with the sums of their groups, factors as floats.
#include "kernels/isa/grouped.h"
#include "kernels/isa/ints.h"
#include "kernels/isa/linear.h"
#include "kernels/isa/widen.h"

namespace cutset::CUTSET_ISA {

namespace {

// A row of 32 values as floats.
void widen_values(FactorKind kind, const std::uint8_t* from, float* out) {
  if (kind == FactorKind::kFloat) {
    __builtin_memcpy(out, from, kPanel * sizeof(float));
    return;
  }
  for (std::size_t c = 0; c < kPanel; c += kLanes) {
    store(out + c, kind == FactorKind::kHalf ? widen_float16(from + 2 * c) : widen_bfloat16(from + 2 * c));
  }
}

#if defined(CUTSET_ISA_avx512) || defined(CUTSET_ISA_avx512vnni)
inline Ints unsigned_bytes(const std::uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
#elif defined(CUTSET_ISA_avx2)
inline Ints unsigned_bytes(const std::uint8_t* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
#else
inline Ints unsigned_bytes(const std::uint8_t* p) { return Ints{p[0], p[1], p[2], p[3]}; }
#endif

template <bool kSigned>
void multiply_steps(const float* values, const std::uint8_t* steps, float* out) {
  for (std::size_t c = 0; c < kPanel; c += kLanes) {
    const Ints wide = kSigned ? widen(reinterpret_cast<const std::int8_t*>(steps) + c) : unsigned_bytes(steps + c);
    store(out + c, mul(load(values + c), to_floats(wide)));
  }
}

void widen_factors(const PanelFactors& form, const std::uint8_t* panel, std::size_t first, std::size_t count,
                   float (*out)[kPanel]) {
  const std::size_t width = kPanel * factor_bytes(form.kind);
  if (form.each == 1 && form.steps == StepKind::kNone) {
    const std::uint8_t* from = panel + form.values_at + first * width;
    for (std::size_t g = 0; g < count; ++g) widen_values(form.kind, from + g * width, out[g]);
    return;
  }
  alignas(64) float values[kPanel];
  std::size_t block = first / form.each, next = (block + 1) * form.each;
  widen_values(form.kind, panel + form.values_at + block * width, values);
  for (std::size_t g = first; g < first + count; ++g, ++out) {
    if (g == next) {
      widen_values(form.kind, panel + form.values_at + ++block * width, values);
      next += form.each;
    }
    const std::uint8_t* steps = panel + form.steps_at + g * kPanel;
    if (form.steps == StepKind::kNone) {
      __builtin_memcpy(*out, values, sizeof values);
    } else if (form.steps == StepKind::kSigned) {
      multiply_steps<true>(values, steps, *out);
    } else {
      multiply_steps<false>(values, steps, *out);
    }
  }
}

}  // namespace

void grouped_factors(const PanelForm& form, const std::uint8_t* panel, std::size_t first, std::size_t count,
                     Factors& factors) {
  widen_factors(form.scales, panel, first, count, factors.scales);
  if (form.minima.kind != FactorKind::kNone) widen_factors(form.minima, panel, first, count, factors.minima);
  for (std::size_t g = 0; form.zeros && g < count; ++g) {
    const std::uint8_t* from = panel + form.zeros_at + (first + g) * kPanel;
    for (std::size_t c = 0; c < kPanel; ++c) factors.zeros[g][c] = from[c] + form.zero;
  }
}

void fetch_factors(const PanelForm& form, const std::uint8_t* panel, std::size_t first, std::size_t count) {
  if (first >= form.groups) {
    first = 0;
    panel += form.bytes;
  }
  const std::size_t end = form.groups - first < count ? form.groups : first + count;
  const auto fetch = [panel](std::size_t from, std::size_t to) {
    for (std::size_t at = from; at < to; at += 64) __builtin_prefetch(panel + at, 0, 2);
  };
  const auto fetch_kind = [&](const PanelFactors& factors) {
    const std::size_t width = kPanel * factor_bytes(factors.kind);
    if (width == 0) return;
    fetch(factors.values_at + first / factors.each * width, factors.values_at + ((end - 1) / factors.each + 1) * width);
    if (factors.steps == StepKind::kNone) return;
    fetch(factors.steps_at + first * kPanel, factors.steps_at + end * kPanel);
  };
  fetch_kind(form.scales);
  fetch_kind(form.minima);
  if (form.zeros) fetch(form.zeros_at + first * kPanel, form.zeros_at + end * kPanel);
}

void grouped_encode(const PanelForm& form, const float* x, std::size_t rows, std::size_t depth, int bits,
                    const std::int32_t* order, float* room, std::int16_t* q, std::int32_t* sums, float* scales,
                    [[maybe_unused]] std::uint8_t* limbs) {
  for (std::size_t r = 0; r < rows; ++r, x += depth, q += form.depth, sums += form.groups) {
    const float* from = x;
    if (order) {
      for (std::size_t k = 0; k < depth; ++k) room[k] = x[order[k]];
      from = room;
    }
    quantize(from, 1, depth, bits, q, scales + r);
    for (std::size_t k = depth; k < form.depth; ++k) q[k] = 0;
    for (std::size_t g = 0; g < form.groups; ++g) {
      const std::size_t first = g * form.span, end = first + form.span < form.depth ? first + form.span : form.depth;
      std::int32_t sum = 0;
      for (std::size_t k = first; k < end; ++k) sum += q[k];
      sums[g] = sum;
    }
#if defined(CUTSET_ISA_avx512vnni)
    grouped_limbs(form, q, limbs);
    limbs += grouped_limb_bytes(form);
#endif
  }
}

#if !defined(CUTSET_ISA_avx512vnni)
std::size_t grouped_limb_bytes(const PanelForm&) { return 0; }
#endif

}  // namespace cutset::CUTSET_ISA
