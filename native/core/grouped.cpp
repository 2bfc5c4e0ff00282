#include "core/grouped.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>
#include <string>

#include "core/linear.h"
#include "core/split.h"
#include "kernels/table.h"

namespace cutset {

namespace {

constexpr std::size_t kLeastRows = 32, kMostRows = 512;
constexpr std::size_t kLine = 64;
constexpr int kBytePlace[4] = {0, 2, 1, 3};  // of a column among four

void require(bool right, const char* message) {
  if (!right) throw std::invalid_argument(message);
}

// Where an output's codes, factors and zeros begin.
struct Row {
  const GroupedPart* part;
  std::size_t index;
};

Row row_of(const std::vector<GroupedPart>& parts, std::size_t output) {
  for (const GroupedPart& part : parts) {
    if (output < part.outputs) return {&part, output};
    output -= part.outputs;
  }
  return {nullptr, 0};
}

bool finite(FactorKind kind, const std::uint8_t* value) {
  if (kind == FactorKind::kFloat) {
    std::uint32_t bits;
    std::memcpy(&bits, value, sizeof bits);
    return (bits & 0x7F800000u) != 0x7F800000u;
  }
  std::uint16_t bits;
  std::memcpy(&bits, value, sizeof bits);
  const unsigned exponent = kind == FactorKind::kHalf ? 0x7C00u : 0x7F80u;
  return (bits & exponent) != exponent;
}

float value_of(FactorKind kind, const std::uint8_t* from) {
  std::uint32_t bits = 0;
  if (kind == FactorKind::kFloat) {
    std::memcpy(&bits, from, 4);
  } else {
    std::uint16_t word;
    std::memcpy(&word, from, 2);
    if (kind == FactorKind::kHalf) {
      bits = static_cast<std::uint32_t>(word & 0x7FFFu) << 13;
      float magnitude;
      std::memcpy(&magnitude, &bits, 4);
      magnitude *= 0x1p112f;
      return word & 0x8000u ? -magnitude : magnitude;
    }
    bits = static_cast<std::uint32_t>(word) << 16;
  }
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

float factor_of(const PanelFactors& form, const std::uint8_t* panel, std::size_t group, std::size_t column) {
  const std::size_t at = (group / form.each * kPanel + column) * factor_bytes(form.kind);
  const float value = value_of(form.kind, panel + form.values_at + at);
  if (form.steps == StepKind::kNone) return value;
  const std::uint8_t step = panel[form.steps_at + group * kPanel + column];
  return value * static_cast<float>(form.steps == StepKind::kSigned ? static_cast<std::int8_t>(step) : int{step});
}

// The float16 of the same value, or one that isn't finite where there is none.
std::uint16_t half_of(const std::uint8_t* from) {
  std::uint32_t bits;
  std::memcpy(&bits, from, sizeof bits);
  const std::uint32_t sign = bits >> 16 & 0x8000u;
  bits &= 0x7FFFFFFFu;
  float size;
  std::memcpy(&size, &bits, sizeof size);
  size *= 0x1p-112f;  // exact, unless the value is too small or too precise, which shows when it is multiplied back
  std::uint32_t narrow;
  std::memcpy(&narrow, &size, sizeof narrow);
  if (bits >= 0x47800000u || (narrow & 0x1FFFu) != 0 ||
      size * 0x1p112f != value_of(FactorKind::kFloat, from) * (sign ? -1.0f : 1.0f))
    return 0x7C00u;
  return static_cast<std::uint16_t>(sign | narrow >> 13);
}

bool put_factors(const PanelFactors& form, std::size_t groups, const GivenFactors& given, std::size_t index,
                 std::size_t column, std::uint8_t* panel) {
  const std::size_t width = factor_bytes(form.kind), wide = factor_bytes(given.kind), blocks = given.blocks;
  bool right = true;
  for (std::size_t b = 0; b < blocks; ++b) {
    const std::uint8_t* from = static_cast<const std::uint8_t*>(given.values) + (index * blocks + b) * wide;
    std::uint8_t* to = panel + form.values_at + (b * kPanel + column) * width;
    right = right && finite(given.kind, from);
    if (width == wide) {
      std::memcpy(to, from, width);
    } else if (form.kind == FactorKind::kHalf) {
      const std::uint16_t half = half_of(from);
      std::memcpy(to, &half, sizeof half);
    } else {
      std::memcpy(to, from + 2, 2);
    }
  }
  for (std::size_t g = 0; form.steps != StepKind::kNone && g < groups; ++g) {
    panel[form.steps_at + g * kPanel + column] = given.steps[index * groups + g];
  }
  return right;
}

constexpr std::uint64_t kNibbles = 0x0F0F0F0F0F0F0F0F;

// Bytes 0, 2, 1, 3 of each four: kBytePlace is its own inverse.
std::uint64_t placed(std::uint64_t eight) {
  constexpr std::uint64_t kKept = 0xFF0000FFFF0000FF, kSecond = 0x0000FF000000FF00;
  return (eight & kKept) | (eight & kSecond) << 8 | (eight >> 8 & kSecond);
}

void put_words(std::uint64_t eight, std::uint8_t* first, std::uint8_t* second) {
  const std::uint32_t words[2] = {static_cast<std::uint32_t>(eight), static_cast<std::uint32_t>(eight >> 32)};
  std::memcpy(first, words, 4);
  std::memcpy(second, words + 1, 4);
}

// The lowest two bits of each byte: of columns 0 and 2 at 0 and 2, of 1 and 3 at 16 and 18.
std::uint32_t spread(std::uint32_t four) {
  return (four & 3u) | (four & 0x300u) << 8 | (four >> 14 & 0xCu) | (four >> 6 & 0xC0000u);
}

// A slab's 16 codes of the outputs c and c + 16: the low or only bits, eight columns at a time, and the upper ones.
void put_slab(int bits, const std::uint8_t* low, const std::uint8_t* high, std::size_t c, std::uint8_t* slab) {
  for (std::size_t k = 0; k < kSlab; k += 8) {
    std::uint64_t a, b;
    std::memcpy(&a, low + k, 8);
    std::memcpy(&b, high + k, 8);
    if (bits == 8) {
      std::uint8_t* at = slab + (k / 4 * kPanel + c) * 4;
      put_words(placed(a), at, at + kPanel * 4);
      put_words(placed(b), at + 64, at + 64 + kPanel * 4);
    } else {
      std::uint8_t* at = slab + (k / 4 * 16 + c) * 4;
      put_words(placed((a & kNibbles) | (b & kNibbles) << 4), at, at + 64);
    }
  }
  if (bits != 5 && bits != 6) return;
  std::uint32_t upper[2] = {};
  for (std::size_t half = 0; half < 2; ++half) {
    for (std::size_t step = 0; step < kSlab / 4; ++step) {
      std::uint32_t four;
      std::memcpy(&four, (half ? high : low) + 4 * step, 4);
      upper[bits == 5 ? 0 : half] |= spread(four >> 4) << (4 * step + (bits == 5 ? half : 0));
    }
  }
  std::memcpy(slab + 256 + 4 * c, upper, 4);
  if (bits == 6) std::memcpy(slab + 320 + 4 * c, upper + 1, 4);
}

unsigned code_at(int bits, const std::uint8_t* slab, std::size_t column, std::size_t k) {
  const std::size_t half = column / 16, c = column % 16, step = k / 4;
  const std::size_t place = static_cast<std::size_t>(kBytePlace[k % 4]);
  if (bits == 8) return slab[(step * kPanel + column) * 4 + place];
  unsigned code = slab[(step * 16 + c) * 4 + place] >> (4 * half) & 15u;
  if (bits == 4) return code;
  std::uint32_t word;
  std::memcpy(&word, slab + 256 + 4 * c + (bits == 6 ? 64 * half : 0), 4);
  const std::size_t bit = 16 * (k % 2) + 4 * step + 2 * (k % 4 / 2) + (bits == 5 ? half : 0);
  return code | (word >> bit & (bits == 5 ? 1u : 3u)) << 4;
}

PanelFactors form_of(const GivenFactors& given, FactorKind kind, std::size_t groups, std::size_t& at) {
  PanelFactors form{kind, 1, given.step_kind, 0, 0};
  if (given.kind == FactorKind::kNone) return form;
  require(given.values && given.blocks >= 1 && given.blocks <= groups && groups % given.blocks == 0,
          "factors must have as many values as groups, or one for each of some blocks of them");
  require((given.step_kind == StepKind::kNone) == (given.steps == nullptr), "factors with steps must have a kind");
  form.each = groups / given.blocks;
  form.values_at = at;
  at += given.blocks * kPanel * factor_bytes(kind);
  form.steps_at = at;
  if (given.steps) at += groups * kPanel;
  return form;
}

bool same(const GivenFactors& a, const GivenFactors& b) {
  return a.kind == b.kind && a.blocks == b.blocks && a.step_kind == b.step_kind && !a.steps == !b.steps;
}

}  // namespace

PackedGrouped::PackedGrouped(const GroupedShape& shape, const std::vector<GroupedPart>& parts, ThreadPool& pool)
    : depth_(shape.depth) {
  for (const GroupedPart& part : parts) outputs_ += part.outputs;
  require(outputs_ > 0 && depth_ > 0, "a weight matrix must not be empty");
  require(depth_ <= INT32_MAX, "a weight matrix has too many columns");
  for (const GroupedPart& part : parts) {
    require(same(part.scales, parts[0].scales) && same(part.minima, parts[0].minima) && !part.zeros == !parts[0].zeros,
            "parts of one matrix must have the same kinds of factors");
  }
  set_form(shape, parts);
  if (shape.order) {
    order_.assign(shape.order, shape.order + depth_);
    std::vector<bool> seen(depth_);
    for (const std::int32_t column : order_) {
      require(column >= 0 && static_cast<std::size_t>(column) < depth_ && !seen[static_cast<std::size_t>(column)],
              "an order must name each column once");
      seen[static_cast<std::size_t>(column)] = true;
    }
  }
  const std::size_t panels = round_up(outputs_, kPanel) / kPanel;
  panels_ = Buffer::shared(checked_product(panels, form_.bytes));
  std::atomic<bool> right{true};
  pool.run(panels, [&](std::size_t panel) noexcept {
    if (!pack(parts, panel)) right.store(false);
  });
  require(right.load(), "codes must fit in their bits, and scales and minima must be finite");
}

FactorKind PackedGrouped::narrowed(const std::vector<GroupedPart>& parts, GivenFactors GroupedPart::* factors) {
  const FactorKind kind = (parts[0].*factors).kind;
  bool bfloat = kind == FactorKind::kFloat, half = bfloat;
  for (const GroupedPart& part : parts) {
    const GivenFactors& given = part.*factors;
    const auto* values = static_cast<const std::uint8_t*>(given.values);
    for (std::size_t i = 0; i < part.outputs * given.blocks && (bfloat || half); ++i) {
      std::uint32_t bits;
      std::memcpy(&bits, values + 4 * i, sizeof bits);
      bfloat = bfloat && (bits & 0xFFFFu) == 0;
      half = half && half_of(values + 4 * i) != 0x7C00u;
    }
  }
  return bfloat ? FactorKind::kBfloat : half ? FactorKind::kHalf : kind;
}

void PackedGrouped::set_form(const GroupedShape& shape, const std::vector<GroupedPart>& parts) {
  const GroupedPart& first = parts[0];
  require(shape.bits == 4 || shape.bits == 5 || shape.bits == 6 || shape.bits == 8, "codes have 4, 5, 6 or 8 bits");
  require(shape.span >= kSlab && shape.span <= kMostSpan && shape.span % kSlab == 0,
          "a group must have a multiple of 16 columns, at most 256");
  require(!shape.levels || shape.bits == 4, "only codes of 4 bits have levels");
  require(first.scales.kind != FactorKind::kNone, "a weight needs scales");
  require(shape.zero >= 0 && shape.zero <= 255 && (!first.zeros || !shape.zero), "a zero lies between 0 and 255");
  form_.bits = shape.bits;
  form_.depth = round_up(depth_, kSlab);
  form_.span = shape.span;
  form_.groups = (form_.depth + shape.span - 1) / shape.span;
  std::size_t at = form_.depth / kSlab * slab_bytes(shape.bits);
  form_.scales = form_of(first.scales, narrowed(parts, &GroupedPart::scales), form_.groups, at);
  form_.minima = form_of(first.minima, narrowed(parts, &GroupedPart::minima), form_.groups, at);
  form_.zeros = first.zeros != nullptr;
  form_.zeros_at = at;
  if (form_.zeros) at += form_.groups * kPanel;
  form_.levels = shape.levels != nullptr;
  form_.zero = shape.zero + (form_.levels ? 128 : 0);
  for (std::size_t i = 0; form_.levels && i < 16; ++i) {
    form_.level[i] = static_cast<std::uint8_t>(shape.levels[i] + 128);
  }
  form_.bytes = round_up(at, kLine);
}

bool PackedGrouped::pack(const std::vector<GroupedPart>& parts, std::size_t panel) {
  std::uint8_t* at = panels_.as<std::uint8_t>() + panel * form_.bytes;
  const std::size_t count = std::min(kPanel, outputs_ - panel * kPanel), step = slab_bytes(form_.bits);
  std::memset(at, 0, form_.bytes);
  bool right = true;
  Row rows[kPanel];
  for (std::size_t c = 0; c < count; ++c) {
    const Row row = rows[c] = row_of(parts, panel * kPanel + c);
    const std::uint8_t* codes = row.part->codes + row.index * depth_;
    std::uint8_t all = 0;
    for (std::size_t k = 0; k < depth_; ++k) all = static_cast<std::uint8_t>(all | codes[k]);
    right = right && all >> form_.bits == 0;
    right = put_factors(form_.scales, form_.groups, row.part->scales, row.index, c, at) && right;
    if (form_.minima.kind != FactorKind::kNone) {
      right = put_factors(form_.minima, form_.groups, row.part->minima, row.index, c, at) && right;
    }
    for (std::size_t g = 0; form_.zeros && g < form_.groups; ++g) {
      at[form_.zeros_at + g * kPanel + c] = row.part->zeros[row.index * form_.groups + g];
    }
  }
  // Some columns of all outputs before the next ones: an output at a time would write every line 32 times.
  std::uint8_t edges[2][kSlab];
  const auto codes_of = [&](std::size_t c, std::size_t k, std::uint8_t* edge) -> const std::uint8_t* {
    const std::uint8_t* codes = c < count ? rows[c].part->codes + rows[c].index * depth_ + k : nullptr;
    if (codes && depth_ - k >= kSlab) return codes;
    std::memset(edge, 0, kSlab);
    if (codes) std::memcpy(edge, codes, depth_ - k);
    return edge;
  };
  for (std::size_t k = 0; k < depth_; k += kSlab) {
    for (std::size_t c = 0; c < std::min(count, kPanel / 2); ++c) {
      const std::uint8_t *low = codes_of(c, k, edges[0]), *high = codes_of(c + kPanel / 2, k, edges[1]);
      put_slab(form_.bits, low, high, c, at + k / kSlab * step);
    }
  }
  return right;
}

void PackedGrouped::forward(ThreadPool& pool, const float* x, std::size_t rows, int bits, float* y, std::size_t stride,
                            Workspace& workspace, const Added& added) const {
  if (bits < PackedI8::kLeastBits || bits > PackedI8::kMostBits) {
    throw std::invalid_argument("bits must be between 8 and 12, not " + std::to_string(bits));
  }
  if (rows == 0) return;
  const GroupedKernels& kernels = cutset::kernels().grouped;
  const std::size_t step = rows_a_task(pool, rows, depth_), tasks = (rows + step - 1) / step;
  const std::size_t q_bytes = round_up(checked_product(checked_product(rows, form_.depth), 2), kLine);
  const std::size_t sums_bytes = round_up(checked_product(checked_product(rows, form_.groups), 4), kLine);
  const std::size_t scales_bytes = round_up(rows * sizeof(float), kLine);
  const std::size_t room_bytes = order_.empty() ? 0 : checked_product(tasks, depth_ * sizeof(float));
  const std::size_t limb_bytes = kernels.limb_bytes(form_);
  const std::size_t limbs_bytes = limb_bytes ? checked_product(rows + kLimbRowsMore, limb_bytes) : 0;
  char* room = static_cast<char*>(workspace.take(q_bytes + sums_bytes + scales_bytes + limbs_bytes + room_bytes));
  auto* q = reinterpret_cast<std::int16_t*>(room);
  auto* sums = reinterpret_cast<std::int32_t*>(room + q_bytes);
  auto* scales = reinterpret_cast<float*>(room + q_bytes + sums_bytes);
  auto* limbs = limb_bytes ? reinterpret_cast<std::uint8_t*>(room + q_bytes + sums_bytes + scales_bytes) : nullptr;
  auto* gathered = reinterpret_cast<float*>(room + q_bytes + sums_bytes + scales_bytes + limbs_bytes);
  const std::int32_t* order = order_.empty() ? nullptr : order_.data();
  run_ranges_beside(pool, added, rows, step, [&](std::size_t first, std::size_t end) {
    kernels.encode(form_, x + first * depth_, end - first, depth_, bits, order,
                   order ? gathered + first / step * depth_ : nullptr, q + first * form_.depth,
                   sums + first * form_.groups, scales + first, limbs ? limbs + first * limb_bytes : nullptr);
  });
  const std::size_t panels = round_up(outputs_, kPanel) / kPanel;
  const Split split = split_product(pool, rows, panels, depth_, kLeastRows, kMostRows);
  pool.run(split.tasks(), [&](std::size_t task) noexcept {
    const std::size_t first = task % split.row_blocks * split.rows;
    const std::size_t start = task / split.row_blocks * split.panels;
    GroupedJob job{};
    job.form = &form_;
    job.rows = {q + first * form_.depth, sums + first * form_.groups, scales + first,
                limbs ? limbs + first * limb_bytes : nullptr};
    job.count = std::min(split.rows, rows - first);
    job.panels = panels_.as<std::uint8_t>() + start * form_.bytes;
    job.outputs = std::min(split.panels * kPanel, outputs_ - start * kPanel);
    job.y = y + first * stride + start * kPanel;
    job.stride = stride;
    kernels.multiply(job);
    added.finish(first, job.count, start * kPanel, job.outputs);
  });
}

void PackedGrouped::weights(std::size_t output, float* row) const {
  const std::uint8_t* panel = panels_.as<std::uint8_t>() + output / kPanel * form_.bytes;
  const std::size_t column = output % kPanel, step = slab_bytes(form_.bits);
  for (std::size_t g = 0; g < form_.groups; ++g) {
    const float scale = factor_of(form_.scales, panel, g, column);
    const bool minima = form_.minima.kind != FactorKind::kNone;
    const float minimum = minima ? factor_of(form_.minima, panel, g, column) : 0.0f;
    const int zero = form_.zero + (form_.zeros ? panel[form_.zeros_at + g * kPanel + column] : 0);
    for (std::size_t k = g * form_.span; k < std::min(depth_, (g + 1) * form_.span); ++k) {
      const unsigned code = code_at(form_.bits, panel + k / kSlab * step, column, k % kSlab);
      const int level = form_.levels ? form_.level[code] : static_cast<int>(code);
      float value = static_cast<float>(level - zero) * scale;
      if (minima) value += minimum;
      row[order_.empty() ? k : static_cast<std::size_t>(order_[k])] = value;
    }
  }
}

}  // namespace cutset
