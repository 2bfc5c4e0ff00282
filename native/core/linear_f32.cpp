#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "core/linear.h"
#include "core/split.h"
#include "kernels/table.h"

namespace cutset {

namespace {

// With many rows the depth is taken in pieces, so that a piece of x stays in the second cache while panels run.
constexpr std::size_t kPiece = std::size_t{1} << 18;  // elements of x
constexpr std::size_t kMostRows = 512;

// Of the depth, in which a panel of 16 bits is widened for many rows: this stays in the nearest caches.
constexpr std::size_t kWidened = 512;
constexpr std::size_t kWidenTiles = 8;  // from so many tiles of rows on, by measurement

// rows: those of a panel's outputs, `bytes` each and with zeros up to `padded`; nullptr for one that doesn't exist.
// Words of all outputs go beside each other: a number, or two of bfloat16. A line of each at a time, so that what is
// written stays in the nearest cache.
template <class Word>
void pack_panel(const void* const* rows, std::size_t bytes, std::size_t padded, void* panel) {
  constexpr std::size_t kLine = 64, kStep = kLine / sizeof(Word);
  Word* packed = static_cast<Word*>(panel);
  for (std::size_t at = 0; at < padded; at += kLine, packed += kStep * kPanel) {
    const std::size_t count = std::min(kStep, (padded - at) / sizeof(Word));
    for (std::size_t c = 0; c < kPanel; ++c) {
      Word line[kStep] = {};
      const char* row = static_cast<const char*>(rows[c]) + (rows[c] ? at : 0);
      if (rows[c] && at + kLine <= bytes) {
        std::memcpy(line, row, kLine);
      } else if (rows[c] && at < bytes) {
        std::memcpy(line, row, bytes - at);
      }
      Word* out = packed + c;
      if (count == kStep) {
        for (std::size_t i = 0; i < kStep; ++i) out[i * kPanel] = line[i];
      } else {
        for (std::size_t i = 0; i < count; ++i) out[i * kPanel] = line[i];
      }
    }
  }
}

}  // namespace

PackedF32::PackedF32(const FloatView& weight, std::size_t outputs, std::size_t depth, ThreadPool& pool)
    : PackedF32(std::vector<RowsF32>{{weight, outputs}}, depth, pool) {}

PackedF32::PackedF32(const std::vector<RowsF32>& parts, std::size_t depth, ThreadPool& pool)
    : depth_(depth), type_(parts.empty() ? FloatType::kFloat32 : parts.front().weight.type) {
  std::vector<const void*> rows;
  for (const RowsF32& part : parts) {
    if (part.weight.type != type_) throw std::invalid_argument("the parts of a weight matrix must be of one type");
    for (std::size_t o = 0; o < part.outputs; ++o) rows.push_back(part.weight.at(o * depth));
  }
  outputs_ = rows.size();
  if (outputs_ == 0 || depth == 0) throw std::invalid_argument("a weight matrix must not be empty");
  rows.resize(round_up(outputs_, kPanel));
  const std::size_t panel = checked_product(kPanel * float_bytes(type_), padded());
  const std::size_t bytes = depth * float_bytes(type_), padded_bytes = padded() * float_bytes(type_);
  panels_ = Buffer::shared(checked_product(rows.size() / kPanel, panel));
  pool.run(rows.size() / kPanel, [&](std::size_t p) noexcept {
    const auto pack = type_ == FloatType::kFloat16 ? pack_panel<std::uint16_t> : pack_panel<std::uint32_t>;
    pack(rows.data() + p * kPanel, bytes, padded_bytes, panels_.as<char>() + p * panel);
  });
}

void PackedF32::forward(ThreadPool& pool, const float* x, std::size_t rows, float* y, Workspace& workspace,
                        const Added& added) const {
  if (rows == 0) return;
  const LinearKernels& kernels = cutset::kernels().linear;
  if (type_ == FloatType::kBFloat16 && kernels.bf16_rows) return forward_tiles(pool, x, rows, y, workspace, added);
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

  const std::size_t piece = round_up(kPiece / split.rows, 2);  // what lies together isn't parted
  // Columns k .. k + depth of panel p with all rows of a block.
  const auto multiply = [&](std::size_t block, std::size_t p, std::size_t k, std::size_t depth, const void* panel,
                            FloatType type) {
    for (std::size_t t = 0; t < tiles_a_task; ++t) {
      const std::size_t first = tile_row(block, t), count = tile_row(block, t + 1) - first;
      if (count == 0) continue;
      kernels.f32_tile(packed + first * depth_ + k * count, count, depth, panel, type,
                       std::min(kPanel, outputs_ - p * kPanel), k > 0, y + first * outputs_ + p * kPanel, outputs_);
    }
  };
  const bool widens = type_ != FloatType::kFloat32 && tiles_a_task >= kWidenTiles;
  pool.run(split.tasks(), [&](std::size_t task) noexcept {
    static thread_local Workspace widened;
    float* wide = widens ? static_cast<float*>(widened.take(kWidened * kPanel * sizeof(float))) : nullptr;
    const std::size_t block = task % split.row_blocks, group = task / split.row_blocks;
    const std::size_t last = std::min(panels, (group + 1) * split.panels);
    for (std::size_t k = 0; k < depth_; k += piece) {
      const std::size_t end = std::min(k + piece, depth_);
      for (std::size_t p = group * split.panels; p < last; ++p) {
        const char* panel = panels_.as<char>() + p * panel_bytes();
        const auto from = [&](std::size_t column) { return panel + column * kPanel * float_bytes(type_); };
        if (!widens) {
          multiply(block, p, k, end - k, from(k), type_);
          continue;
        }
        for (std::size_t at = k; at < end; at += kWidened) {
          const std::size_t depth = std::min(kWidened, end - at);
          kernels.f32_widen(from(at), type_, depth, wide);
          multiply(block, p, at, depth, wide, FloatType::kFloat32);
        }
      }
    }
    const std::size_t row = block * split.rows, output = group * split.panels * kPanel;
    added.finish(row, std::min(split.rows, rows - row), output, std::min(last * kPanel, outputs_) - output);
  });
}

// With bfloat16 in tiles, see BFloat16Job.
void PackedF32::forward_tiles(ThreadPool& pool, const float* x, std::size_t rows, float* y, Workspace& workspace,
                              const Added& added) const {
  const LinearKernels& kernels = cutset::kernels().linear;
  const std::size_t panels = round_up(outputs_, kPanel) / kPanel;
  // So that several panels see rows that are in the second cache.
  const std::size_t together = rows > kernels.bf16_rows ? 4 : 1;
  const Split split = split_product(pool, rows, panels, depth_, 2 * kernels.bf16_rows, kBFloat16JobRows, together);

  // Tiles of one height, so that the last one of a block may have fewer rows.
  const std::size_t tiles = (split.rows + kernels.bf16_rows - 1) / kernels.bf16_rows;  // of a block
  const std::size_t height = (split.rows + tiles - 1) / tiles;
  const std::size_t tile_bytes = checked_product(height, kernels.bf16_row_bytes(depth_));
  char* pieces = static_cast<char*>(workspace.take(checked_product(split.row_blocks * tiles, tile_bytes)));
  run_ranges_beside(pool, added, split.row_blocks * tiles,
                    std::max<std::size_t>(1, rows_a_task(pool, rows, depth_) / height),
                    [&](std::size_t first, std::size_t end) {
                      for (std::size_t t = first; t < end; ++t) {
                        const std::size_t block = t / tiles * split.rows;
                        const std::size_t begin = block + t % tiles * height;
                        const std::size_t last = std::min({begin + height, block + split.rows, rows});
                        if (begin >= last) continue;
                        kernels.bf16_pack(x + begin * depth_, last - begin, height, depth_, pieces + t * tile_bytes);
                      }
                    });
  pool.run(split.tasks(), [&](std::size_t task) noexcept {
    const std::size_t block = task % split.row_blocks, group = task / split.row_blocks;
    const std::size_t row = block * split.rows, output = group * split.panels * kPanel;
    BFloat16Job job{};
    job.pieces = pieces + block * tiles * tile_bytes;
    job.rows = std::min(split.rows, rows - row);
    job.height = height;
    job.depth = depth_;
    job.panels = panels_.as<char>() + group * split.panels * panel_bytes();
    job.outputs = std::min(split.panels * kPanel, outputs_ - output);
    job.y = y + row * outputs_ + output;
    job.stride = outputs_;
    kernels.bf16_multiply(job);
    added.finish(row, job.rows, output, job.outputs);
  });
}

}  // namespace cutset
