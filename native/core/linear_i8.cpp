#include <algorithm>
#include <atomic>
#include <climits>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/linear.h"
#include "core/split.h"
#include "kernels/field.h"
#include "kernels/table.h"

namespace cutset {

namespace {

constexpr std::size_t kLeastRows = 32, kMostRows = 512;

void raise(std::atomic<std::int64_t>& most, std::int64_t value) {
  std::int64_t seen = most.load(std::memory_order_relaxed);
  while (seen < value && !most.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
  }
}

std::size_t panel_bytes(std::size_t outputs, std::size_t depth) {
  return checked_product(round_up(outputs, kPanel), round_up(depth, kDepthStep));
}

void check_bits(int bits) {
  if (bits < PackedI8::kLeastBits || bits > PackedI8::kMostBits) {
    throw std::invalid_argument("bits must be between 8 and 12, not " + std::to_string(bits));
  }
}

}  // namespace

PackedI8::PackedI8(const std::int8_t* weight, const float* scales, std::size_t outputs, std::size_t depth,
                   ThreadPool& pool)
    : PackedI8({{weight, scales, outputs}}, depth, pool) {}

PackedI8::PackedI8(const std::vector<RowsI8>& parts, std::size_t depth, ThreadPool& pool) : outputs_(0), depth_(depth) {
  std::vector<const std::int8_t*> rows;
  for (const RowsI8& part : parts) {
    for (std::size_t r = 0; r < part.outputs; ++r) rows.push_back(part.weight + r * depth);
  }
  outputs_ = rows.size();
  prepare();
  float* scales = scales_.as<float>();
  for (const RowsI8& part : parts) scales = std::copy(part.scales, part.scales + part.outputs, scales);
  own_ = Buffer::shared(panel_bytes(outputs_, depth_));
  panels_ = own_.as<std::int8_t>();
  survey(pool, [&](std::size_t first, std::int32_t* sums) {
    std::int8_t* panel = own_.as<std::int8_t>() + first * round_up(depth_, kDepthStep);
    return kernels().linear.i8_pack(rows.data() + first, std::min(kPanel, outputs_ - first), depth_, panel, sums);
  });
}

PackedI8::PackedI8(const PanelsI8& panels, ThreadPool& pool)
    : outputs_(panels.outputs), depth_(panels.depth), panels_(panels.panels) {
  prepare();
  std::copy(panels.scales, panels.scales + outputs_, scales_.as<float>());
  survey(pool, [&](std::size_t first, std::int32_t* sums) {
    const std::int8_t* panel = panels.panels + first * round_up(depth_, kDepthStep);
    return kernels().linear.i8_measure(panel, std::min(kPanel, outputs_ - first), depth_, sums);
  });
}

void PackedI8::prepare() {
  if (outputs_ == 0 || depth_ == 0) throw std::invalid_argument("a weight matrix must not be empty");
  if (depth_ > INT_MAX / 128) throw std::invalid_argument("a weight matrix has too many columns for 32-bit sums");
  const std::size_t padded = round_up(outputs_, kPanel);
  sums_ = Buffer::shared(padded * sizeof(std::int32_t));
  scales_ = Buffer::shared(padded * sizeof(float));
  std::fill(scales_.as<float>() + outputs_, scales_.as<float>() + padded, 0.0f);
}

template <class Facts>
void PackedI8::survey(ThreadPool& pool, const Facts& facts) {
  std::atomic<std::int64_t> most_sum{0};
  std::atomic<bool> legal{true};
  pool.run(round_up(outputs_, kPanel) / kPanel, [&](std::size_t panel) noexcept {
    const PanelFacts found = facts(panel * kPanel, sums_.as<std::int32_t>() + panel * kPanel);
    raise(most_sum, found.most_sum);
    if (!found.legal) legal.store(false);
  });
  if (!legal.load())
    throw std::invalid_argument("8-bit weights must lie between -127 and 127, and padding must be zero");
  most_sum_ = most_sum.load();
}

std::size_t PackedI8::move_in(ThreadPool& pool) {
  if (own_.bytes() > 0) return 0;
  const std::size_t bytes = panel_bytes(outputs_, depth_);
  Buffer own = Buffer::shared(bytes);
  const std::int8_t* from = panels_.load(std::memory_order_relaxed);
  run_ranges(pool, bytes, std::size_t{1} << 19, [&](std::size_t first, std::size_t end) {
    std::copy(from + first, from + end, own.as<std::int8_t>() + first);
  });
  own_ = std::move(own);
  panels_.store(own_.as<std::int8_t>(), std::memory_order_release);
  return bytes;
}

std::size_t PackedI8::bytes() const { return panel_bytes(outputs_, depth_) + sums_.bytes() + scales_.bytes(); }

std::size_t PackedI8::warm(std::size_t offset, std::size_t bytes) const {
  constexpr std::size_t kStep = 512;  // what the kernel reads at a time
  const std::size_t all = panel_bytes(outputs_, depth_) / kStep * kStep;
  const std::size_t first = std::min(offset / kStep * kStep, all);
  const std::size_t count = std::min(bytes / kStep * kStep, all - first);
  static std::atomic<std::uint64_t> kept;  // so that no compiler leaves the reading out
  if (count > 0) {
    kept.store(kernels().linear.read(panels_.load(std::memory_order_acquire) + first, count),
               std::memory_order_relaxed);
  }
  return first + count;
}

int PackedI8::most_bits() const {
  for (int bits = kMostBits; bits >= kLeastBits; --bits) {
    if (most_sum_ * ((1 << (bits - 1)) - 1) <= kHalfPrime) return bits;
  }
  return 0;
}

void PackedI8::check(int bits) const {
  check_bits(bits);
  if (bits > most_bits()) {
    throw std::invalid_argument("sums of " + std::to_string(bits) + "-bit activations with these weights may pass " +
                                "2^30 - 1; use at most " + std::to_string(most_bits()) + " bits");
  }
}

void PackedI8::forward(ThreadPool& pool, const float* x, std::size_t rows, int bits, float* y, Workspace& workspace,
                       const Added& added) const {
  check(bits);
  if (rows == 0) return;
  const LinearKernels& kernels = cutset::kernels().linear;
  const std::size_t stride = kernels.i8_code_bytes(depth_, bits), scales_bytes = round_up(rows * sizeof(float), 64);
  char* room = static_cast<char*>(workspace.take(checked_product(rows + kCodeRowsMore, stride) + scales_bytes));
  float* scales = reinterpret_cast<float*>(room);
  std::uint8_t* codes = reinterpret_cast<std::uint8_t*>(room + scales_bytes);
  run_ranges_beside(pool, added, rows, rows_a_task(pool, rows, depth_), [&](std::size_t first, std::size_t end) {
    kernels.i8_encode(x + first * depth_, end - first, depth_, bits, codes + first * stride, scales + first);
  });
  I8Job job{};
  job.codes = codes;
  job.rows = rows;
  job.bits = bits;
  job.row_scales = scales;
  job.scaled = y;
  multiply(pool, job, stride, added);
}

void PackedI8::integers(ThreadPool& pool, const std::int16_t* q, std::size_t rows, int bits, std::int32_t* z,
                        Workspace& workspace) const {
  check(bits);
  if (rows == 0) return;
  const int top = (1 << (bits - 1)) - 1;
  const auto [least, most] = std::minmax_element(q, q + rows * depth_);
  if (*least < -top || *most > top) {
    throw std::invalid_argument("integers of " + std::to_string(bits) + " bits must lie between " +
                                std::to_string(-top) + " and " + std::to_string(top));
  }
  const LinearKernels& kernels = cutset::kernels().linear;
  const std::size_t stride = kernels.i8_code_bytes(depth_, bits);
  std::uint8_t* codes = static_cast<std::uint8_t*>(workspace.take(checked_product(rows + kCodeRowsMore, stride)));
  run_ranges(pool, rows, rows_a_task(pool, rows, depth_), [&](std::size_t first, std::size_t end) {
    kernels.i8_encode_whole(q + first * depth_, end - first, depth_, bits, codes + first * stride);
  });
  I8Job job{};
  job.codes = codes;
  job.rows = rows;
  job.bits = bits;
  job.whole = z;
  multiply(pool, job, stride);
}

void PackedI8::residues(ThreadPool& pool, const std::uint32_t* x, std::size_t rows, std::uint32_t* z,
                        Workspace& workspace) const {
  if (depth_ > kMostResidueDepth) {
    throw std::invalid_argument("residues can be multiplied with at most " + std::to_string(kMostResidueDepth) +
                                " columns, not " + std::to_string(depth_));
  }
  if (rows == 0) return;
  const LinearKernels& kernels = cutset::kernels().linear;
  const std::size_t stride = kernels.i8_residue_bytes(depth_), limb = stride / kResidueLimbs;
  const std::size_t bytes = checked_product(rows, stride) + kCodeRowsMore * limb;
  std::uint8_t* codes = static_cast<std::uint8_t*>(workspace.take(bytes));
  std::atomic<bool> canonical{true};
  run_ranges(pool, rows, rows_a_task(pool, rows, depth_), [&](std::size_t first, std::size_t end) {
    std::uint32_t most = 0;
    for (std::size_t i = first * depth_; i < end * depth_; ++i) most = std::max(most, x[i]);
    if (most >= kPrime) canonical.store(false, std::memory_order_relaxed);
    kernels.i8_encode_residues(x + first * depth_, end - first, depth_, codes + first * stride);
  });
  if (!canonical.load()) throw std::invalid_argument("x must hold residues, which are below 2147483647");
  I8Job job{};
  job.codes = codes;
  job.rows = rows;
  job.bits = kLeastBits;
  job.residues = z;
  multiply(pool, job, stride);
}

void PackedI8::multiply(ThreadPool& pool, const I8Job& whole, std::size_t stride, const Added& added) const {
  const LinearKernels& kernels = cutset::kernels().linear;
  const std::size_t panels = round_up(outputs_, kPanel) / kPanel, padded = round_up(depth_, kDepthStep);
  const std::size_t limbs = whole.residues ? kResidueLimbs : 1;
  const Split split = split_product(pool, whole.rows, panels, depth_, kLeastRows / limbs, kMostRows / limbs);
  const std::int8_t* weights = panels_.load(std::memory_order_acquire);
  pool.run(split.tasks(), [&](std::size_t task) noexcept {
    const std::size_t first = task % split.row_blocks * split.rows, group = task / split.row_blocks;
    const std::size_t start = group * split.panels * kPanel;
    const std::size_t out = first * outputs_ + start;
    I8Job job = whole;
    job.codes += first * stride;
    job.rows = std::min(split.rows, whole.rows - first);
    job.depth = depth_;
    job.panels = weights + start * padded;
    job.sums = sums_.as<std::int32_t>() + start;
    if (job.row_scales) job.row_scales += first;
    job.output_scales = scales_.as<float>() + start;
    job.outputs = std::min(split.panels * kPanel, outputs_ - start);
    if (job.scaled) job.scaled += out;
    if (job.whole) job.whole += out;
    if (job.residues) job.residues += out;
    job.stride = outputs_;
    kernels.i8_multiply(job);
    added.finish(first, job.rows, start, job.outputs);
  });
}

}  // namespace cutset
