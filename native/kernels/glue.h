// The kernels between two linears: embedding, norms, rotary embedding, attention, activation, routing of experts.
//
// Batch invariance: what a kernel writes for a row depends on that row's inputs alone (for attention: on its query
// and the keys and values it sees), to the bit, however the rows are grouped into calls.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cutset {

// The cache of keys and values lies in packs of 16 tokens, so that a block holds block_size / 16 of them. Keys are
// transposed inside a pack: a vector holds one dimension of several tokens, and q·k needs no sum over lanes.
//   keys    [blocks][kv_heads][block_size / 16][head_dim][16]
//   values  [blocks][kv_heads][block_size / 16][16][padded_dim(head_dim)]
// In 8 bits a pack is 16 floats, a scale for each token, and then as many signed bytes as it has floats above. A scale
// is fixed when its token is written: the largest element of that head / 127, so a token's bytes depend on it alone.
constexpr std::size_t kPackTokens = 16;

enum class CacheType : std::uint8_t { kFloat32, kInt8 };

constexpr std::size_t padded_dim(std::size_t head_dim) { return (head_dim + 15) / 16 * 16; }

// Floats, or room of that size, from a pack to the next one.
constexpr std::size_t key_pack(CacheType type, std::size_t head_dim) {
  return type == CacheType::kInt8 ? kPackTokens + kPackTokens / 4 * head_dim : kPackTokens * head_dim;
}
constexpr std::size_t value_pack(CacheType type, std::size_t head_dim) { return key_pack(type, padded_dim(head_dim)); }

// Consecutive rows of one sequence against one head of keys and values, for the `group` query heads that share it.
struct AttentionTask {
  const float* q;  // (rows, group, head_dim), rows q_stride floats apart
  std::size_t q_stride;
  std::size_t rows;
  std::size_t group;
  std::size_t head_dim;
  std::size_t position;  // place of the first row in its sequence; it sees the keys 0 .. position
  std::size_t window;    // a row sees that many keys, itself included; 0: all of them
  float scale;           // of the scores; above 0
  float softcap;         // scores become softcap * tanh(score / softcap); 0: they stay
  const float* sinks;    // (group) a score of nothing for each head, which takes its share of the weights; or nullptr
  CacheType type;
  const float* keys;  // this head in block 0; a block is key_stride floats
  const float* values;
  std::size_t key_stride;
  std::size_t value_stride;
  std::size_t block_size;
  const std::int32_t* block_table;  // (blocks)
  const std::uint8_t* key_mask;     // (position + rows), 0 where a key may not be seen; or nullptr
  float* out;                       // (rows, group, head_dim), rows out_stride floats apart; zeros where no key is seen
  std::size_t out_stride;
  float* scratch;  // attention_scratch(head_dim) floats, 64-byte aligned for speed
};

// A task works through its queries (row by row, all heads of the group) in tiles of that many.
constexpr std::size_t kQueryTile = 64;
// And through keys in tiles at multiples of that many tokens, whatever the rows: it fixes the order of all sums.
constexpr std::size_t kKeyTile = 128;

// What a query gathers in a part of its history, that many tokens at multiples of that many, starts from nothing and is
// merged in order; so that threads can share out one row's history, and it doesn't show in the result.
constexpr std::size_t kPartTokens = 512;

// Floats of what one query has gathered: sums, largest score, sum of weights.
constexpr std::size_t kStateMore = 16;
constexpr std::size_t attention_state(std::size_t head_dim) { return padded_dim(head_dim) + kStateMore; }

constexpr std::size_t attention_scratch(std::size_t head_dim) {
  return kQueryTile * (head_dim + 2 * attention_state(head_dim) + kKeyTile);
}

// Consecutive tokens of one head under the gated delta rule.
struct DeltaRuleTask {
  float* state;    // S, (key_dim, value_dim)
  const float* q;  // (rows, key_dim)
  const float* k;
  const float* v;      // (rows, value_dim)
  std::size_t stride;  // floats between rows of q, k and v
  const float* kept;   // (rows), gate_stride floats apart
  const float* beta;
  std::size_t gate_stride;
  std::size_t rows;
  std::size_t key_dim;
  std::size_t value_dim;
  float* out;  // (rows, value_dim), rows out_stride floats apart
  std::size_t out_stride;
};

// Panels of 16 outputs of a low-rank matrix: floats [depth][16], bfloat16 [depth / 2][16][2] or, of whole numbers from
// -127 to 127, bytes [depth][16], so that a cache line has one, two or four steps of every output; the depth is padded
// with zeros to whole lines. What is computed doesn't depend on it.
constexpr std::size_t kThinPanel = 16;

enum class ThinKind : std::uint8_t { kFloat, kBfloat, kByte };

constexpr std::size_t thin_steps(ThinKind kind) {
  return kind == ThinKind::kFloat ? 1 : kind == ThinKind::kBfloat ? 2 : 4;
}
constexpr std::size_t thin_panel_bytes(std::size_t depth, ThinKind kind) {
  return (depth + thin_steps(kind) - 1) / thin_steps(kind) * kThinPanel * 4;
}

// Products with such panels. Every element is one chain of multiply-adds in the order of the depth, whatever the number
// of rows, outputs and products in one call.
struct ThinDot {
  const float* x;  // (rows, depth)
  const void* panel;
  float* y;  // (rows, 16)
};

struct ThinDots {
  const ThinDot* dots;
  std::size_t count;
  std::size_t rows;  // of each
  std::size_t depth;
  ThinKind kind;
  std::size_t x_stride;  // floats between two rows
  std::size_t y_stride;
};

// y += scale * (x . W) for some consecutive outputs of a matrix.
struct ThinAdd {
  const float* x;  // (rows, depth)
  std::size_t x_stride;
  std::size_t rows;
  std::size_t depth;
  const void* panels;  // the one with the first output and those after it
  ThinKind kind;
  std::size_t skip;  // outputs of that panel before the first
  std::size_t outputs;
  float scale;
  const float* scales;  // of each of these panels, instead of `scale`; or nullptr
  float* y;             // (rows, outputs)
  std::size_t y_stride;
};

// Elements of a head that are mixed with each other: the largest power of two that divides it, at most 128.
constexpr std::size_t kMostMixed = 128;
constexpr std::size_t mixed_run(std::size_t head_dim) {
  const std::size_t run = head_dim & (~head_dim + 1);
  return run < kMostMixed ? run : kMostMixed;
}

// Rows of a table by their numbers, without an address or a branch that depends on these: row r of out gets what it has
// or'ed with the entry `ids[r]`, and every entry is read for every row.
struct TableScan {
  const std::uint8_t* table;  // (entries, bytes), `stride` bytes from one to the next
  std::size_t entries;
  std::size_t stride;
  std::size_t bytes;
  std::size_t first;        // the number of the first entry
  const std::int32_t* ids;  // (rows)
  std::size_t rows;
  std::uint8_t* out;  // (rows, bytes), `out_stride` bytes from one to the next
  std::size_t out_stride;
};

struct GlueKernels {
  // out[r] = table[ids[r]];  table: (vocab, cols), ids: (rows), out: (rows, cols)
  void (*embedding)(const float* table, const std::int32_t* ids, std::size_t rows, std::size_t cols, float* out);
  void (*scan)(const TableScan& scan);
  // out[r] = x[r] / sqrt(mean(x[r]^2) + eps) * gain;  x, out: (rows, cols), may be the same; gain: (cols)
  void (*rms_norm)(const float* x, const float* gain, float eps, std::size_t rows, std::size_t cols, float* out);
  // x[r] += delta[r], then out = rms_norm(x);  x, delta, out: (rows, cols)
  void (*add_rms_norm)(float* x, const float* delta, const float* gain, float eps, std::size_t rows, std::size_t cols,
                       float* out);
  // x[r] += bias;  x: (rows, cols), bias: (cols)
  void (*add_bias)(float* x, const float* bias, std::size_t rows, std::size_t cols);
  // x[i] *= factor
  void (*scale)(float* x, float factor, std::size_t count);
  // x[i] = cap * tanh(x[i] / cap)
  void (*softcap)(float* x, float cap, std::size_t count);
  // out[r] += weight * x[r] for one row of `cols`
  void (*scaled_add)(float* out, float weight, const float* x, std::size_t cols);
  // Rotates the first `rotary_dim` elements of the first `heads` heads of each row: (a, b) -> (a cos - b sin,
  // b cos + a sin), where a and b are the two halves of those elements or, interleaved, each two neighbours.
  //   x: (rows, heads, head_dim), rows `stride` floats apart; cos, sin: (rows, rotary_dim / 2)
  void (*apply_rope)(float* x, std::size_t stride, const float* cos, const float* sin, std::size_t rows,
                     std::size_t heads, std::size_t head_dim, std::size_t rotary_dim, bool interleaved);
  // Writes one token to place `place` of a cache block.  k, v: (kv_heads, head_dim); the block: all its heads
  void (*append)(const float* k, const float* v, std::size_t kv_heads, std::size_t head_dim, std::size_t block_size,
                 std::size_t place, float* key_block, float* value_block);
  // The same in 8 bits. What isn't finite gets the scale NaN, so that it shows in every score; a head whose scale would
  // be subnormal is zeros.
  void (*append_i8)(const float* k, const float* v, std::size_t kv_heads, std::size_t head_dim, std::size_t block_size,
                    std::size_t place, float* key_block, float* value_block);
  // Mixes the elements of each head by an orthogonal matrix, so that none is much larger than the others: Walsh and
  // Hadamard's, over runs of mixed_run(head_dim) elements.  x: (heads, head_dim)
  void (*mix_heads)(float* x, std::size_t heads, std::size_t head_dim);
  void (*attention)(const AttentionTask& task);
  // The same in two steps, for at most kQueryTile queries (rows * group): what they gather in the part of the history
  // that begins at token part * kPartTokens, and the result of all parts.
  //   states: (parts, queries, attention_state(head_dim))
  void (*attention_part)(const AttentionTask& task, std::size_t part, float* states);
  void (*attention_merge)(const AttentionTask& task, const float* states, std::size_t parts);
  // out = silu(gate) * up;  x: (rows, [gate | up]), out: (rows, cols)
  void (*silu_mul)(const float* x, std::size_t rows, std::size_t cols, float* out);
  // out = gelu(gate) * up, with the approximation by tanh;  as silu_mul
  void (*gelu_mul)(const float* x, std::size_t rows, std::size_t cols, float* out);
  // The same with GELU itself: gate times the share of a normal distribution below it.
  void (*gelu_erf_mul)(const float* x, std::size_t rows, std::size_t cols, float* out);
  // out = relu(gate) * up, or relu(gate)^2 * up;  as silu_mul
  void (*relu_mul)(const float* x, bool squared, std::size_t rows, std::size_t cols, float* out);
  // out = gate * sigmoid(alpha * gate) * (up + 1), where gate is at most `limit` and up within it;  as silu_mul
  void (*clamped_mul)(const float* x, float limit, float alpha, std::size_t rows, std::size_t cols, float* out);
  // The k most probable experts of each row by softmax, the lower number first among equals.
  //   logits: (rows, experts); ids, weights: (rows, k); scratch: (experts)
  void (*moe_route)(const float* logits, std::size_t rows, std::size_t experts, std::size_t k, bool renormalise,
                    std::int32_t* ids, float* weights, float* scratch);
  // out[i] = a[i] * b[i]
  void (*multiply)(const float* a, const float* b, std::size_t count, float* out);
  // x[i] *= sigmoid(gate[i]);  x may be gate
  void (*sigmoid_mul)(float* x, const float* gate, std::size_t count);
  // out = bias + sum over j of rows[j] * weight[j]: one row of a causal convolution of each channel, of the last `taps`
  // rows, the oldest first.  rows: (taps) of (cols); weight: (taps, cols), rows `stride` floats apart; bias: (cols) or
  // nullptr
  void (*short_conv)(const float* const* rows, std::size_t taps, const float* weight, std::size_t stride,
                     const float* bias, std::size_t cols, float* out);
  // Token by token: S *= kept, S += k (x) beta (v - S^T k), out = S^T q.
  void (*delta_rule)(const DeltaRuleTask& task);
  void (*thin_dots)(const ThinDots& work);
  void (*thin_add)(const ThinAdd& work);
  // out[i] = e^x[i], for tests;  x, out: (count)
  void (*exp)(const float* x, std::size_t count, float* out);
};

}  // namespace cutset
