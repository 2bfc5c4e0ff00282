#include "core/adapter.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "kernels/table.h"

namespace cutset {

namespace {

constexpr std::size_t kRows = 64;  // of one task, at most

struct Task {
  const LowRank* part;
  const std::size_t* rows;
  std::size_t count;
};

void run_task(const Task& task, const float* x, std::size_t inputs, float* y, std::size_t outputs) {
  static thread_local Workspace gathered, products;
  const ThinMatrix& down = task.part->down;
  const ThinMatrix& up = task.part->up;
  const float* in = x + task.rows[0] * inputs;
  if (task.rows[task.count - 1] - task.rows[0] + 1 != task.count) {
    float* room = static_cast<float*>(gathered.take(task.count * inputs * sizeof(float)));
    for (std::size_t i = 0; i < task.count; ++i) {
      std::memcpy(room + i * inputs, x + task.rows[i] * inputs, inputs * sizeof(float));
    }
    in = room;
  }
  float* narrow = static_cast<float*>(products.take(task.count * (down.padded() + up.padded()) * sizeof(float)));
  float* wide = narrow + task.count * down.padded();
  down.forward(in, inputs, task.count, narrow);
  up.forward(narrow, down.padded(), task.count, wide);
  for (std::size_t i = 0; i < task.count; ++i) {
    float* out = y + task.rows[i] * outputs + task.part->first;
    kernels().glue.scaled_add(out, task.part->scale, wide + i * up.padded(), up.outputs());
  }
}

std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

bool all_bfloat16(const float* values, std::size_t count) {
  std::uint32_t low = 0;
  for (std::size_t i = 0; i < count; ++i) low |= bits_of(values[i]) & 0xFFFF;
  return low == 0;
}

}  // namespace

ThinMatrix::ThinMatrix(const float* weight, std::size_t outputs, std::size_t depth)
    : outputs_(outputs), depth_(depth), half_(false) {
  if (outputs == 0 || depth == 0) throw std::invalid_argument("a weight matrix must not be empty");
  half_ = all_bfloat16(weight, checked_product(outputs, depth));
  const std::size_t bytes = checked_product(checked_product(padded(), depth), half_ ? 2 : 4);
  panels_ = Buffer::shared(bytes);
  std::memset(panels_.as<void>(), 0, bytes);
  for (std::size_t o = 0; o < outputs; ++o) {
    const float* row = weight + o * depth;
    const std::size_t first = o / kThinPanel * depth * kThinPanel + o % kThinPanel;
    for (std::size_t k = 0; k < depth; ++k) {
      const std::size_t at = first + k * kThinPanel;
      if (half_) {
        panels_.as<std::uint16_t>()[at] = static_cast<std::uint16_t>(bits_of(row[k]) >> 16);
      } else {
        panels_.as<float>()[at] = row[k];
      }
    }
  }
}

std::size_t ThinMatrix::padded() const { return round_up(outputs_, kThinPanel); }

void ThinMatrix::forward(const float* x, std::size_t stride, std::size_t rows, float* y) const {
  const std::size_t count = padded() / kThinPanel;
  kernels().glue.thin_product({x, stride, rows, depth_, panels_.as<void>(), half_, count, y, padded()});
}

void Adapter::put(Site site, int layer, int expert, const float* down, const float* up, std::size_t rank,
                  std::size_t inputs, std::size_t first, std::size_t outputs, float scale) {
  const std::size_t index = spec_.index(site, layer, expert);
  if (inputs != spec_.inputs(site, layer, expert)) throw std::invalid_argument("a site has other inputs");
  const std::size_t most = spec_.outputs(site, layer, expert);
  if (outputs > most || first > most - outputs) throw std::invalid_argument("a site has fewer outputs");
  parts_[index].push_back({ThinMatrix(down, rank, inputs), ThinMatrix(up, outputs, rank), first, scale});
}

std::vector<AdaptedRows> adapted_rows(const std::vector<const Adapter*>& adapters) {
  std::vector<AdaptedRows> groups;
  for (std::size_t row = 0; row < adapters.size(); ++row) {
    if (!adapters[row]) continue;
    const auto found = std::find_if(groups.begin(), groups.end(),
                                    [&](const AdaptedRows& group) { return group.adapter == adapters[row]; });
    AdaptedRows& group = found != groups.end() ? *found : groups.emplace_back(AdaptedRows{adapters[row], {}});
    group.rows.push_back(row);
  }
  return groups;
}

void add_low_rank(ThreadPool& pool, const std::vector<AdaptedRows>& groups, std::size_t index, const float* x,
                  std::size_t inputs, float* y, std::size_t outputs) {
  std::vector<Task> tasks;
  for (const AdaptedRows& group : groups) {
    for (const LowRank& part : group.adapter->parts(index)) {
      for (std::size_t done = 0; done < group.rows.size(); done += kRows) {
        tasks.push_back({&part, group.rows.data() + done, std::min(kRows, group.rows.size() - done)});
      }
    }
  }
  // Parts of one site add to outputs of their own, groups to rows of their own.
  pool.run(tasks.size(), [&](std::size_t i) noexcept { run_task(tasks[i], x, inputs, y, outputs); });
}

}  // namespace cutset
