#include "core/addition.h"

#include <cstring>

#include "kernels/table.h"

namespace cutset {

namespace {

constexpr std::size_t kBlock = 64;   // rows of one task, at most
constexpr std::size_t kInPlace = 8;  // fewer consecutive rows are gathered with others
constexpr std::size_t kOutputs = 512;
constexpr ThinKind kKinds[] = {ThinKind::kFloat, ThinKind::kBfloat, ThinKind::kByte};

// How many of rows[begin ..] follow one another.
std::size_t run_length(const std::vector<std::size_t>& rows, std::size_t begin) {
  std::size_t end = begin + 1;
  while (end < rows.size() && rows[end] == rows[end - 1] + 1) ++end;
  return end - begin;
}

// Those of rows[begin ..] that are taken together; they lie beside each other unless they must be gathered.
std::size_t block_length(const std::vector<std::size_t>& rows, std::size_t begin, bool& gather) {
  const std::size_t run = run_length(rows, begin);
  gather = run < kInPlace && begin + run < rows.size();
  std::size_t count = run;
  for (std::size_t more = run; gather && count < kBlock && begin + count < rows.size(); count += more) {
    more = run_length(rows, begin + count);
    if (more >= kInPlace) break;
  }
  return std::min(count, kBlock);
}

}  // namespace

bool Addition::begin(const std::vector<AdaptedRows>& groups, std::size_t index, const float* x, std::size_t inputs,
                     float* y, std::size_t outputs, int threads) {
  inputs_ = inputs;
  outputs_ = outputs;
  rows_ = 0;
  y_ = y;
  groups_.clear();
  dots_.clear();
  tasks_.clear();
  for (std::vector<ThinDot>& dots : singles_) dots.clear();

  std::size_t narrow = 0, gathered = 0;
  for (const AdaptedRows& group : groups) {
    const std::vector<LowRank>& parts = group.adapter->parts(index);
    if (parts.empty() || group.rows.empty()) continue;
    std::size_t width = 0;
    for (const LowRank& part : parts) width += part.down.padded();
    groups_.push_back({&group.rows, &parts, width, nullptr});
    narrow += checked_product(group.rows.size(), width);
    gathered += group.rows.size();
    rows_ = std::max(rows_, group.rows.back() + 1);
  }
  if (groups_.empty()) return false;

  float* room = static_cast<float*>(narrow_.take(checked_product(narrow, sizeof(float))));
  float* copies = nullptr;
  for (Group& group : groups_) {
    group.narrow = room;
    const std::vector<std::size_t>& rows = *group.rows;
    room += rows.size() * group.width;
    bool gather = false;
    for (std::size_t done = 0, count = 0; done < rows.size(); done += count) {
      count = block_length(rows, done, gather);
      const float* block = x + rows[done] * inputs;
      if (gather) {
        if (!copies) {
          copies =
              static_cast<float*>(gathered_.take(checked_product(gathered, checked_product(inputs, sizeof *copies))));
        }
        for (std::size_t i = 0; i < count; ++i) {
          std::memcpy(copies + i * inputs, x + rows[done + i] * inputs, inputs * sizeof *copies);
        }
        block = copies;
        copies += count * inputs;
      }
      add_block(group, done, count, block);
    }
  }
  for (const ThinKind kind : kKinds) {
    const std::vector<ThinDot>& dots = singles_[static_cast<std::size_t>(kind)];
    const std::size_t first = dots_.size();
    dots_.insert(dots_.end(), dots.begin(), dots.end());
    // Products of several rows stand beside each other, for each is one chain; but every thread needs some.
    share_out(first, 1, kind, 0, dots.size() >= 8 * static_cast<std::size_t>(threads) ? 4 : 2);
  }
  return true;
}

// `count` rows of a group from the one numbered `begin` on, which lie at x.
void Addition::add_block(const Group& group, std::size_t begin, std::size_t count, const float* x) {
  for (const ThinKind kind : kKinds) {
    std::vector<ThinDot>& dots = count == 1 ? singles_[static_cast<std::size_t>(kind)] : dots_;
    const std::size_t first = dots_.size();
    float* y = group.narrow + begin * group.width;
    for (const LowRank& part : *group.parts) {
      for (std::size_t p = 0; p < part.down.panels(); ++p, y += kThinPanel) {
        if (part.down.kind() == kind) dots.push_back({x, part.down.panel(p), y});
      }
    }
    if (count > 1) share_out(first, count, kind, group.width, 2);
  }
}

// Makes tasks of at most `most` of the products from `first` on.
void Addition::share_out(std::size_t first, std::size_t rows, ThinKind kind, std::size_t stride, std::size_t most) {
  for (; first < dots_.size(); first += most) {
    tasks_.push_back({first, std::min(most, dots_.size() - first), rows, kind, stride});
  }
}

void Addition::prepare(std::size_t task) const noexcept {
  const Task& own = tasks_[task];
  kernels().glue.thin_dots({dots_.data() + own.dot, own.dots, own.rows, inputs_, own.kind, inputs_, own.stride});
}

void Addition::add(std::size_t row, std::size_t rows, std::size_t output, std::size_t outputs) const noexcept {
  for (const Group& group : groups_) {
    const auto begin = group.rows->begin(), end = group.rows->end();
    const auto from = std::lower_bound(begin, end, row), to = std::lower_bound(from, end, row + rows);
    const float* narrow = group.narrow + static_cast<std::size_t>(from - begin) * group.width;
    for (const LowRank& part : *group.parts) {
      const ThinMatrix& up = part.up;
      const std::size_t low = std::max(output, part.first);
      const std::size_t high = std::min(output + outputs, part.first + up.outputs());
      const float* x = narrow;
      for (auto at = from; low < high && at != to;) {
        auto next = at + 1;
        while (next != to && *next == *(next - 1) + 1) ++next;
        const auto count = static_cast<std::size_t>(next - at);
        const std::size_t skipped = low - part.first, panel = skipped / kThinPanel;
        const float* scales = part.scales.empty() ? nullptr : part.scales.data() + panel;
        kernels().glue.thin_add({x, group.width, count, up.depth(), up.panel(panel), up.kind(), skipped % kThinPanel,
                                 high - low, part.scale, scales, y_ + *at * outputs_ + low, outputs_});
        x += count * group.width;
        at = next;
      }
      narrow += part.down.padded();
    }
  }
}

void Addition::add_all(ThreadPool& pool, std::size_t output, std::size_t outputs) const {
  const std::size_t blocks = (rows_ + kBlock - 1) / kBlock, pieces = (outputs + kOutputs - 1) / kOutputs;
  pool.run(blocks * pieces, [&](std::size_t task) noexcept {
    const std::size_t row = task % blocks * kBlock, first = task / blocks * kOutputs;
    add(row, std::min(kBlock, rows_ - row), output + first, std::min(kOutputs, outputs - first));
  });
}

void Addition::run(ThreadPool& pool) const {
  pool.run(tasks(), [&](std::size_t task) noexcept { prepare(task); });
  add_all(pool, 0, outputs_);
}

}  // namespace cutset
