#include "core/adapter.h"

#include <algorithm>
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

void run_task(ThreadPool& pool, const Task& task, const float* x, std::size_t inputs, float* y, std::size_t outputs) {
  static thread_local Workspace gathered, products, packed;
  const std::size_t rank = task.part->down.outputs(), changed = task.part->up.outputs();
  const float* in = x + task.rows[0] * inputs;
  if (task.rows[task.count - 1] - task.rows[0] + 1 != task.count) {
    float* room = static_cast<float*>(gathered.take(task.count * inputs * sizeof(float)));
    for (std::size_t i = 0; i < task.count; ++i) {
      std::memcpy(room + i * inputs, x + task.rows[i] * inputs, inputs * sizeof(float));
    }
    in = room;
  }
  float* narrow = static_cast<float*>(products.take(task.count * (rank + changed) * sizeof(float)));
  float* wide = narrow + task.count * rank;
  task.part->down.forward(pool, in, task.count, narrow, packed);
  task.part->up.forward(pool, narrow, task.count, wide, packed);
  for (std::size_t i = 0; i < task.count; ++i) {
    float* out = y + task.rows[i] * outputs + task.part->first;
    kernels().glue.scaled_add(out, task.part->scale, wide + i * changed, changed);
  }
}

}  // namespace

void Adapter::put(Site site, int layer, int expert, const float* down, const float* up, std::size_t rank,
                  std::size_t inputs, std::size_t first, std::size_t outputs, float scale, ThreadPool& pool) {
  const std::size_t index = spec_.index(site, layer, expert);
  if (inputs != spec_.inputs(site, layer, expert)) throw std::invalid_argument("a site has other inputs");
  const std::size_t most = spec_.outputs(site, layer, expert);
  if (outputs > most || first > most - outputs) throw std::invalid_argument("a site has fewer outputs");
  parts_[index].push_back({PackedF32(down, rank, inputs, pool), PackedF32(up, outputs, rank, pool), first, scale});
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
  pool.run(tasks.size(), [&](std::size_t i) noexcept { run_task(pool, tasks[i], x, inputs, y, outputs); });
}

}  // namespace cutset
