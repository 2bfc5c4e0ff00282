// Attention of a batch of ragged rows over a paged cache, cut into pieces for threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cutset {

// The rows of one step; the C++ side of cutset.models.executor.Batch, which documents the fields.
struct Rows {
  std::size_t count = 0;
  std::size_t sequences = 0;
  const std::int32_t* row_starts = nullptr;    // (sequences + 1)
  const std::int32_t* context_lens = nullptr;  // (sequences)
  const std::int32_t* block_tables = nullptr;  // (sequences, table_width)
  std::size_t table_width = 0;
  const std::uint8_t* key_mask = nullptr;  // (sequences, mask_width), or nullptr
  std::size_t mask_width = 0;
};

struct HeadShape {
  std::size_t heads = 0;
  std::size_t kv_heads = 0;  // divides heads
  std::size_t head_dim = 0;

  std::size_t group() const { return heads / kv_heads; }
  std::size_t q_size() const { return heads * head_dim; }
  std::size_t kv_size() const { return kv_heads * head_dim; }
  std::size_t qkv_size() const { return q_size() + 2 * kv_size(); }
};

// Keys and values of one layer, laid out as kernels/glue.h says.
struct LayerCache {
  float* keys = nullptr;
  float* values = nullptr;
  std::size_t block_size = 0;  // a multiple of kPackTokens

  static std::size_t key_floats(const HeadShape& shape, std::size_t block_size);  // of one block
  static std::size_t value_floats(const HeadShape& shape, std::size_t block_size);
};

// Where a row's key and value go.
struct Slot {
  std::size_t block;
  std::size_t place;
};

// One for each row.
std::vector<Slot> cache_slots(const Rows& rows, std::size_t block_size);

// Writes keys and values of the rows begin .. end.  qkv: (rows, [q | k | v])
void append(const HeadShape& shape, const LayerCache& cache, const Slot* slots, const float* qkv, std::size_t begin,
            std::size_t end);

// Consecutive rows of one sequence that attend; results go to consecutive rows of the output.
struct Span {
  std::size_t sequence;
  std::size_t first_row;  // in the batch
  std::size_t count;
  std::size_t out_row;
};

// All rows; or `wanted` rows in that order, which may repeat.
std::vector<Span> all_spans(const Rows& rows);
std::vector<Span> wanted_spans(const Rows& rows, const std::int32_t* wanted, std::size_t count);

// A share of a layer's attention: some rows of a span against one head of keys and values.
struct AttentionPiece {
  Span span;
  std::size_t kv_head;
};

// The dearest first, so that threads that take the next one finish together. Results don't depend on the cut.
std::vector<AttentionPiece> cut_attention(const Rows& rows, const HeadShape& shape, const std::vector<Span>& spans);

struct Attention {
  HeadShape shape;
  std::size_t window = 0;  // tokens that a row sees, itself included; 0: all
  float scale = 0.0f;
};

// qkv: (rows, [q | k | v]) after the rotary embedding, out: (out rows, heads * head_dim)
void run_piece(const Attention& attention, const Rows& rows, const LayerCache& cache, const AttentionPiece& piece,
               const float* qkv, float* out);

}  // namespace cutset
