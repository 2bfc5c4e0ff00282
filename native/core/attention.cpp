#include "core/attention.h"

#include <algorithm>

#include "core/memory.h"
#include "kernels/table.h"

namespace cutset {

namespace {

// Scratch of the thread at hand.
float* scratch(std::size_t floats) {
  static thread_local Workspace mine;
  return static_cast<float*>(mine.take(floats * sizeof(float)));
}

// Some rows of a span against one head of keys and values.
struct Piece {
  Span span;
  std::size_t kv_head;
  std::size_t cost;  // keys times rows, roughly
};

// The dearest first, so that threads that take the next one finish together.
std::vector<Piece> cut_attention(const Rows& rows, const HeadShape& shape, const std::vector<Span>& spans) {
  const std::size_t most = std::max<std::size_t>(1, kQueryTile / shape.group());
  std::vector<Piece> pieces;
  for (const Span& span : spans) {
    for (std::size_t done = 0; done < span.count; done += most) {
      const Span part = {span.sequence, span.first_row + done, std::min(most, span.count - done), span.out_row + done};
      const std::size_t cost = part.count * (rows.position(part.sequence, part.first_row) + kKeyTile);
      for (std::size_t h = 0; h < shape.kv_heads; ++h) pieces.push_back({part, h, cost});
    }
  }
  std::stable_sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.cost > b.cost; });
  return pieces;
}

AttentionTask task_of(const Attention& attention, const Rows& rows, const LayerCache& cache, const Piece& piece,
                      const float* qkv, float* out) {
  const HeadShape& shape = attention.shape;
  const std::size_t packs = cache.block_size / kPackTokens * piece.kv_head;
  const std::size_t q_start = piece.kv_head * shape.group() * shape.head_dim;
  AttentionTask task{};
  task.q = qkv + piece.span.first_row * shape.qkv_size() + q_start;
  task.q_stride = shape.qkv_size();
  task.rows = piece.span.count;
  task.group = shape.group();
  task.head_dim = shape.head_dim;
  task.position = rows.position(piece.span.sequence, piece.span.first_row);
  task.window = attention.window;
  task.scale = attention.scale;
  task.softcap = attention.softcap;
  task.sinks = attention.sinks ? attention.sinks + piece.kv_head * shape.group() : nullptr;
  task.type = cache.type;
  task.keys = cache.keys + packs * key_pack(cache.type, shape.head_dim);
  task.values = cache.values + packs * value_pack(cache.type, shape.head_dim);
  task.key_stride = cache.key_stride;
  task.value_stride = cache.value_stride;
  task.block_size = cache.block_size;
  task.block_table = rows.block_tables + piece.span.sequence * rows.table_width;
  task.key_mask = rows.key_mask ? rows.key_mask + piece.span.sequence * rows.mask_width : nullptr;
  task.out = out + piece.span.out_row * shape.q_size() + q_start;
  task.out_stride = shape.q_size();
  return task;
}

void run_piece(AttentionTask task) {
  task.scratch = scratch(attention_scratch(task.head_dim));
  kernels().glue.attention(task);
}

// Fewer pieces than threads could use, as when a long sequence decodes: each part of each history is a task.
void attend_in_parts(ThreadPool& pool, const std::vector<AttentionTask>& tasks) {
  struct Part {
    const AttentionTask* task;
    std::size_t number;
    std::size_t state;  // where its states begin
  };
  std::vector<Part> parts;
  std::vector<std::size_t> starts;  // of each task's parts
  std::size_t floats = 0;
  for (const AttentionTask& task : tasks) {
    starts.push_back(parts.size());
    const std::size_t end = task.position + task.rows;
    const std::size_t first = task.window && task.position + 1 > task.window ? task.position + 1 - task.window : 0;
    for (std::size_t p = first / kPartTokens; p * kPartTokens < end; ++p) {
      parts.push_back({&task, p, floats});
      floats += task.rows * task.group * attention_state(task.head_dim);
    }
  }
  starts.push_back(parts.size());
  static thread_local Workspace workspace;
  float* states = static_cast<float*>(workspace.take(floats * sizeof(float)));
  pool.run(parts.size(), [&](std::size_t i) noexcept {
    AttentionTask task = *parts[i].task;
    task.scratch = scratch(attention_scratch(task.head_dim));
    kernels().glue.attention_part(task, parts[i].number, states + parts[i].state);
  });
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    AttentionTask task = tasks[t];
    task.scratch = scratch(attention_scratch(task.head_dim));
    kernels().glue.attention_merge(task, states + parts[starts[t]].state, starts[t + 1] - starts[t]);
  }
}

}  // namespace

std::size_t LayerCache::key_floats(const HeadShape& shape, std::size_t block_size, CacheType type) {
  return shape.kv_heads * (block_size / kPackTokens) * key_pack(type, shape.head_dim);
}

std::size_t LayerCache::value_floats(const HeadShape& shape, std::size_t block_size, CacheType type) {
  return shape.kv_heads * (block_size / kPackTokens) * value_pack(type, shape.head_dim);
}

void append(const HeadShape& shape, const LayerCache& cache, const Slot* slots, const float* qkv, std::size_t begin,
            std::size_t end) {
  const auto write = cache.type == CacheType::kInt8 ? kernels().glue.append_i8 : kernels().glue.append;
  for (std::size_t r = begin; r < end; ++r) {
    const float* k = qkv + r * shape.qkv_size() + shape.q_size();
    write(k, k + shape.kv_size(), shape.kv_heads, shape.head_dim, cache.block_size, slots[r].place,
          cache.keys + slots[r].block * cache.key_stride, cache.values + slots[r].block * cache.value_stride);
  }
}

void attend(ThreadPool& pool, const Attention& attention, const Rows& rows, const LayerCache& cache,
            const std::vector<Span>& spans, const float* qkv, float* out) {
  std::vector<AttentionTask> tasks;
  std::size_t cost = 0;
  const bool splittable = attention.shape.group() <= kQueryTile;
  for (const Piece& piece : cut_attention(rows, attention.shape, spans)) {
    tasks.push_back(task_of(attention, rows, cache, piece, qkv, out));
    cost += piece.cost * attention.shape.group() * attention.shape.head_dim;
  }
  // Below this a second thread costs more than it brings.
  constexpr std::size_t kTooSmall = std::size_t{1} << 17;
  if (cost < kTooSmall || pool.threads() == 1) {
    for (const AttentionTask& task : tasks) run_piece(task);
  } else if (splittable && tasks.size() < 2 * static_cast<std::size_t>(pool.threads())) {
    attend_in_parts(pool, tasks);
  } else {
    pool.run(tasks.size(), [&](std::size_t i) noexcept { run_piece(tasks[i]); });
  }
}

}  // namespace cutset
