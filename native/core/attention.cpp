#include "core/attention.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "kernels/table.h"

namespace cutset {

namespace {

// Scratch of the thread at hand; it grows and stays.
float* scratch(std::size_t floats) {
  constexpr std::align_val_t kLine{64};
  struct Free {
    void operator()(float* p) const { ::operator delete(p, kLine); }
  };
  thread_local std::unique_ptr<float, Free> memory;
  thread_local std::size_t size = 0;
  if (size < floats) {
    memory.reset(static_cast<float*>(::operator new(floats * sizeof(float), kLine)));
    size = floats;
  }
  return memory.get();
}

// Tokens in the cache before a row of a sequence.
std::size_t position_of(const Rows& rows, std::size_t sequence, std::size_t row) {
  return static_cast<std::size_t>(rows.context_lens[sequence]) -
         (static_cast<std::size_t>(rows.row_starts[sequence + 1]) - row);
}

}  // namespace

std::size_t LayerCache::key_floats(const HeadShape& shape, std::size_t block_size) {
  return shape.kv_heads * block_size * shape.head_dim;
}

std::size_t LayerCache::value_floats(const HeadShape& shape, std::size_t block_size) {
  return shape.kv_heads * block_size * padded_dim(shape.head_dim);
}

std::vector<Slot> cache_slots(const Rows& rows, std::size_t block_size) {
  std::vector<Slot> slots(rows.count);
  for (std::size_t s = 0; s < rows.sequences; ++s) {
    for (std::size_t r = rows.row_starts[s]; r < static_cast<std::size_t>(rows.row_starts[s + 1]); ++r) {
      const std::size_t token = position_of(rows, s, r);
      const std::int32_t block = rows.block_tables[s * rows.table_width + token / block_size];
      slots[r] = {static_cast<std::size_t>(block), token % block_size};
    }
  }
  return slots;
}

void append(const HeadShape& shape, const LayerCache& cache, const Slot* slots, const float* qkv, std::size_t begin,
            std::size_t end) {
  const std::size_t key_floats = LayerCache::key_floats(shape, cache.block_size);
  const std::size_t value_floats = LayerCache::value_floats(shape, cache.block_size);
  for (std::size_t r = begin; r < end; ++r) {
    const float* k = qkv + r * shape.qkv_size() + shape.q_size();
    kernels().glue.append(k, k + shape.kv_size(), shape.kv_heads, shape.head_dim, cache.block_size, slots[r].place,
                          cache.keys + slots[r].block * key_floats, cache.values + slots[r].block * value_floats);
  }
}

std::vector<Span> all_spans(const Rows& rows) {
  std::vector<Span> spans;
  for (std::size_t s = 0; s < rows.sequences; ++s) {
    const auto first = static_cast<std::size_t>(rows.row_starts[s]);
    const auto end = static_cast<std::size_t>(rows.row_starts[s + 1]);
    if (first < end) spans.push_back({s, first, end - first, first});
  }
  return spans;
}

std::vector<Span> wanted_spans(const Rows& rows, const std::int32_t* wanted, std::size_t count) {
  std::vector<Span> spans;
  for (std::size_t i = 0; i < count; ++i) {
    const auto row = static_cast<std::size_t>(wanted[i]);
    const std::int32_t* after = std::upper_bound(rows.row_starts, rows.row_starts + rows.sequences + 1, wanted[i]);
    const auto sequence = static_cast<std::size_t>(after - rows.row_starts) - 1;
    if (!spans.empty() && spans.back().sequence == sequence && spans.back().first_row + spans.back().count == row) {
      ++spans.back().count;
    } else {
      spans.push_back({sequence, row, 1, i});
    }
  }
  return spans;
}

std::vector<AttentionPiece> cut_attention(const Rows& rows, const HeadShape& shape, const std::vector<Span>& spans) {
  const std::size_t most = std::max<std::size_t>(1, kQueryTile / shape.group());
  std::vector<AttentionPiece> pieces;
  for (const Span& span : spans) {
    for (std::size_t done = 0; done < span.count; done += most) {
      const Span part = {span.sequence, span.first_row + done, std::min(most, span.count - done), span.out_row + done};
      for (std::size_t h = 0; h < shape.kv_heads; ++h) pieces.push_back({part, h});
    }
  }
  const auto cost = [&](const AttentionPiece& piece) {
    return piece.span.count * (position_of(rows, piece.span.sequence, piece.span.first_row) + kKeyTile);
  };
  std::stable_sort(pieces.begin(), pieces.end(),
                   [&](const AttentionPiece& a, const AttentionPiece& b) { return cost(a) > cost(b); });
  return pieces;
}

void run_piece(const Attention& attention, const Rows& rows, const LayerCache& cache, const AttentionPiece& piece,
               const float* qkv, float* out) {
  const HeadShape& shape = attention.shape;
  const std::size_t block_heads = cache.block_size * piece.kv_head;
  const std::size_t q_start = piece.kv_head * shape.group() * shape.head_dim;
  AttentionTask task;
  task.q = qkv + piece.span.first_row * shape.qkv_size() + q_start;
  task.q_stride = shape.qkv_size();
  task.rows = piece.span.count;
  task.group = shape.group();
  task.head_dim = shape.head_dim;
  task.position = position_of(rows, piece.span.sequence, piece.span.first_row);
  task.window = attention.window;
  task.scale = attention.scale;
  task.keys = cache.keys + block_heads * shape.head_dim;
  task.values = cache.values + block_heads * padded_dim(shape.head_dim);
  task.key_stride = LayerCache::key_floats(shape, cache.block_size);
  task.value_stride = LayerCache::value_floats(shape, cache.block_size);
  task.block_size = cache.block_size;
  task.block_table = rows.block_tables + piece.span.sequence * rows.table_width;
  task.key_mask = rows.key_mask ? rows.key_mask + piece.span.sequence * rows.mask_width : nullptr;
  task.out = out + piece.span.out_row * shape.q_size() + q_start;
  task.out_stride = shape.q_size();
  task.scratch = scratch(attention_scratch(shape.head_dim));
  kernels().glue.attention(task);
}

}  // namespace cutset
