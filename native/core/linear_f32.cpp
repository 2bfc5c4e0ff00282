#include <algorithm>
#include <stdexcept>

#include "core/linear.h"
#include "core/split.h"
#include "kernels/table.h"

namespace cutset {

namespace {

// With many rows the depth is taken in pieces, so that a piece of x stays in the second cache while panels run.
constexpr std::size_t kPiece = std::size_t{1} << 18;  // elements of x
constexpr std::size_t kMostRows = 512;

void pack_panel(const float* weight, std::size_t outputs, std::size_t depth, std::size_t panel, float* packed) {
  const std::size_t first = panel * kPanel, count = std::min(kPanel, outputs - first);
  for (std::size_t c = 0; c < kPanel; ++c) {
    const float* row = weight + (first + c) * depth;
    for (std::size_t k = 0; k < depth; ++k) packed[k * kPanel + c] = c < count ? row[k] : 0.0f;
  }
}

}  // namespace

PackedF32::PackedF32(const float* weight, std::size_t outputs, std::size_t depth, ThreadPool& pool)
    : outputs_(outputs), depth_(depth) {
  if (outputs == 0 || depth == 0) throw std::invalid_argument("a weight matrix must not be empty");
  const std::size_t panels = round_up(outputs, kPanel) / kPanel;
  panels_ = Buffer::shared(checked_product(checked_product(panels * kPanel, depth), sizeof(float)));
  pool.run(panels, [&](std::size_t p) noexcept {
    pack_panel(weight, outputs, depth, p, panels_.as<float>() + p * kPanel * depth);
  });
}

void PackedF32::forward(ThreadPool& pool, const float* x, std::size_t rows, float* y, Workspace& workspace,
                        const Added& added) const {
  if (rows == 0) return;
  const LinearKernels& kernels = cutset::kernels().linear;
  const std::size_t panels = round_up(outputs_, kPanel) / kPanel;
  const Split split = split_product(pool, rows, panels, depth_, 2 * kernels.f32_rows, kMostRows);

  // x by tiles of nearly equal height: tile t of `tiles` has the rows from rows * t / tiles on.
  const std::size_t tiles_a_task = (split.rows + kernels.f32_rows - 1) / kernels.f32_rows;
  const auto tile_row = [&](std::size_t block, std::size_t tile) {
    const std::size_t first = block * split.rows, count = std::min(split.rows, rows - first);
    return first + count * tile / tiles_a_task;
  };
  const float* packed = x;
  if (rows > 1) {
    float* room = static_cast<float*>(workspace.take(checked_product(checked_product(rows, depth_), sizeof(float))));
    run_ranges_beside(pool, added, split.row_blocks * tiles_a_task,
                      std::max<std::size_t>(1, rows_a_task(pool, rows, depth_) / kernels.f32_rows),
                      [&](std::size_t first, std::size_t end) {
                        for (std::size_t t = first; t < end; ++t) {
                          const std::size_t begin = tile_row(t / tiles_a_task, t % tiles_a_task);
                          const std::size_t count = tile_row(t / tiles_a_task, t % tiles_a_task + 1) - begin;
                          kernels.f32_pack(x + begin * depth_, count, depth_, room + begin * depth_);
                        }
                      });
    packed = room;
  } else {
    run_beside(pool, added, 0, [](std::size_t) {});
  }

  const std::size_t piece = std::max<std::size_t>(1, kPiece / split.rows);
  pool.run(split.tasks(), [&](std::size_t task) noexcept {
    const std::size_t block = task % split.row_blocks, group = task / split.row_blocks;
    const std::size_t last = std::min(panels, (group + 1) * split.panels);
    for (std::size_t k = 0; k < depth_; k += piece) {
      const std::size_t depth = std::min(piece, depth_ - k);
      for (std::size_t p = group * split.panels; p < last; ++p) {
        const float* panel = panels_.as<float>() + (p * depth_ + k) * kPanel;
        for (std::size_t t = 0; t < tiles_a_task; ++t) {
          const std::size_t first = tile_row(block, t), count = tile_row(block, t + 1) - first;
          if (count == 0) continue;
          kernels.f32_tile(packed + first * depth_ + k * count, count, depth, panel,
                           std::min(kPanel, outputs_ - p * kPanel), k > 0, y + first * outputs_ + p * kPanel, outputs_);
        }
      }
    }
    const std::size_t row = block * split.rows, output = group * split.panels * kPanel;
    added.finish(row, std::min(split.rows, rows - row), output, std::min(last * kPanel, outputs_) - output);
  });
}

}  // namespace cutset
