// Attention of a batch of ragged rows over a paged cache, shared out among threads.
#pragma once

#include <cstddef>
#include <vector>

#include "core/pool.h"
#include "core/rows.h"
#include "kernels/glue.h"

namespace cutset {

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
  std::size_t key_stride = 0;  // floats from a block to the next one
  std::size_t value_stride = 0;
  CacheType type = CacheType::kFloat32;

  static std::size_t key_floats(const HeadShape& shape, std::size_t block_size, CacheType type);  // of one block
  static std::size_t value_floats(const HeadShape& shape, std::size_t block_size, CacheType type);
};

// Writes keys and values of the rows begin .. end.  qkv: (rows, [q | k | v])
void append(const HeadShape& shape, const LayerCache& cache, const Slot* slots, const float* qkv, std::size_t begin,
            std::size_t end);

struct Attention {
  HeadShape shape;
  std::size_t window = 0;  // tokens that a row sees, itself included; 0: all
  float scale = 0.0f;
  float softcap = 0.0f;          // 0: none
  const float* sinks = nullptr;  // (heads)
};

// Causal attention of the spans' rows over their sequences' caches, which hold the rows' own keys and values already.
//   qkv: (rows, [q | k | v]) after the rotary embedding, out: (out rows, heads * head_dim)
void attend(ThreadPool& pool, const Attention& attention, const Rows& rows, const LayerCache& cache,
            const std::vector<Span>& spans, const float* qkv, float* out);

}  // namespace cutset
