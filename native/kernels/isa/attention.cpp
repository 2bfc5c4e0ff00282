// Causal attention over the paged cache, with an online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867) over
// key tiles at absolute positions.
//
// A query meets the same tiles, in the same order, with the same arithmetic, whoever its neighbours in the query tile
// are, and never touches a key or a value that it may not see. That makes it batch invariant.
#include "kernels/isa/attention_products.h"
#include "kernels/isa/glue.h"

namespace cutset::CUTSET_ISA {

namespace {

// Up to that many queries wait for memory; then the values are fetched while the scores are computed.
constexpr std::size_t kFewQueries = 16;

// What a query has gathered so far, relative to its largest score.
struct Softmax {
  float biggest = -kInfinity;
  float sum = 0.0f;
};

// The tokens of a key tile that a query sees.
struct Range {
  std::size_t from;
  std::size_t to;
};

struct QueryTile {
  std::size_t count;
  std::size_t first_key[kQueryTile];  // a query sees the keys first_key .. end_key, unless masked
  std::size_t end_key[kQueryTile];
  Softmax softmax[kQueryTile];
  Range seen[kQueryTile];  // of the key tile at hand
  float* queries;          // (head_dim, kQueryTile)
  float* sums;             // (kQueryTile, padded)
  float* scores;           // (kQueryTile, kKeyTile)
};

struct KeyTile {
  std::size_t start;
  const std::uint8_t* mask;  // of its first token, or nullptr
  const float* keys[kTilePacks];
  const float* values[kTilePacks];
};

// Turns the scores of one query into weights, and rescales what it has gathered if a larger score came up.
void weigh(float* scores, Range& seen, const std::uint8_t* mask, float scale, std::size_t padded, Softmax& softmax,
           float* sums) {
  const std::size_t first = seen.from / kLanes * kLanes;
  const std::size_t last = (seen.to + kLanes - 1) / kLanes * kLanes;
  for (std::size_t t = first; t < seen.from; ++t) scores[t] = -kInfinity;
  for (std::size_t t = seen.to; t < last; ++t) scores[t] = -kInfinity;
  if (mask) {
    for (std::size_t t = seen.from; t < seen.to; ++t) scores[t] = mask[t] ? scores[t] : -kInfinity;
  }
  Vec most = splat(-kInfinity);
  for (std::size_t t = first; t < last; t += kLanes) most = larger(most, load(scores + t));
  const float biggest = max_lanes(most) * scale;
  if (biggest == -kInfinity) {  // all masked
    seen.to = seen.from;
    return;
  }
  if (!(biggest <= softmax.biggest)) {
    const float shrink = exp(softmax.biggest - biggest);
    softmax.biggest = biggest;
    softmax.sum *= shrink;
    for (std::size_t c = 0; c < padded; c += kLanes) store(sums + c, mul(load(sums + c), splat(shrink)));
  }
  Vec total = splat(0.0f);
  for (std::size_t t = first; t < last; t += kLanes) {
    const Vec weights = exp(fma(load(scores + t), splat(scale), splat(-softmax.biggest)));
    store(scores + t, weights);
    total = add(total, weights);
  }
  softmax.sum += sum_lanes(total);
}

// Calls the function made for `count` queries.
template <int Q = kMostQueries, class Call>
inline void with_queries(std::size_t count, Call call) {
  if constexpr (Q == 1) {
    call(Count<1>{});
  } else if (count == Q) {
    call(Count<Q>{});
  } else {
    with_queries<Q - 1>(count, call);
  }
}

void score_tile(const AttentionTask& task, QueryTile& tile, const KeyTile& keys) {
  for (std::size_t q = 0; q < tile.count; q += kMostQueries) {
    const std::size_t count = tile.count - q < kMostQueries ? tile.count - q : kMostQueries;
    std::size_t from = kKeyTile;
    std::size_t to = 0;
    for (std::size_t i = q; i < q + count; ++i) {
      if (tile.seen[i].from == tile.seen[i].to) continue;
      from = tile.seen[i].from < from ? tile.seen[i].from : from;
      to = tile.seen[i].to > to ? tile.seen[i].to : to;
    }
    if (from >= to) continue;
    with_queries(count, [&](auto n) {
      score_queries<n.value>(tile.queries + q, keys.keys, from / kPackTokens, (to + kPackTokens - 1) / kPackTokens,
                             task.head_dim, tile.scores + q * kKeyTile);
    });
  }
}

// Adds the weighted values of a run of unmasked tokens: those that all queries of a register tile see together, those
// before and after query by query.
void gather_run(QueryTile& tile, const KeyTile& keys, std::size_t padded, Range run) {
  for (std::size_t q = 0; q < tile.count; q += kMostQueries) {
    const std::size_t count = tile.count - q < kMostQueries ? tile.count - q : kMostQueries;
    Range own[kMostQueries];
    Range common = run;
    for (std::size_t i = 0; i < count; ++i) {
      const Range& seen = tile.seen[q + i];
      own[i].from = seen.from > run.from ? seen.from : run.from;
      own[i].to = seen.to < run.to ? seen.to : run.to;
      common.from = own[i].from > common.from ? own[i].from : common.from;
      common.to = own[i].to < common.to ? own[i].to : common.to;
    }
    if (common.from >= common.to) common.from = common.to = run.to;
    const float* weights = tile.scores + q * kKeyTile;
    float* sums = tile.sums + q * padded;
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t to = own[i].to < common.from ? own[i].to : common.from;
      add_all_values<1>(weights + i * kKeyTile, keys.values, padded, own[i].from, to, sums + i * padded);
    }
    if (common.from == common.to) continue;
    with_queries(count,
                 [&](auto n) { add_all_values<n.value>(weights, keys.values, padded, common.from, common.to, sums); });
    for (std::size_t i = 0; i < count; ++i) {
      add_all_values<1>(weights + i * kKeyTile, keys.values, padded, common.to, own[i].to, sums + i * padded);
    }
  }
}

void gather_values(QueryTile& tile, const KeyTile& keys, std::size_t padded) {
  if (!keys.mask) return gather_run(tile, keys, padded, {0, kKeyTile});
  std::size_t end = 0;  // the last query sees furthest; the mask ends there
  for (std::size_t q = 0; q < tile.count; ++q) end = tile.seen[q].to > end ? tile.seen[q].to : end;
  for (std::size_t t = 0; t < end;) {
    for (; t < end && !keys.mask[t];) ++t;
    const std::size_t start = t;
    for (; t < end && keys.mask[t];) ++t;
    if (start < t) gather_run(tile, keys, padded, {start, t});
  }
}

void run_key_tile(const AttentionTask& task, QueryTile& tile, std::size_t start, std::size_t padded) {
  KeyTile keys;
  keys.start = start;
  keys.mask = task.key_mask ? task.key_mask + start : nullptr;
  const std::size_t first = tile.first_key[0];
  const std::size_t end = tile.end_key[tile.count - 1];
  for (std::size_t p = 0; p < kTilePacks; ++p) {
    const std::size_t token = start + p * kPackTokens;
    if (token + kPackTokens <= first || token >= end) continue;
    const std::size_t block = static_cast<std::size_t>(task.block_table[token / task.block_size]);
    const std::size_t place = token % task.block_size;
    keys.keys[p] = task.keys + block * task.key_stride + place * task.head_dim;
    keys.values[p] = task.values + block * task.value_stride + place * padded;
  }
  for (std::size_t q = 0; q < tile.count; ++q) {
    const std::size_t from = tile.first_key[q] > start ? tile.first_key[q] - start : 0;
    const std::size_t to = tile.end_key[q] < start + kKeyTile ? tile.end_key[q] : start + kKeyTile;
    tile.seen[q] = to > start + from ? Range{from, to - start} : Range{0, 0};
  }
  if (tile.count <= kFewQueries) {
    for (std::size_t p = 0; p < kTilePacks && start + p * kPackTokens < end; ++p) {
      if (start + (p + 1) * kPackTokens <= first) continue;
      for (std::size_t i = 0; i < kPackTokens * padded; i += 16) __builtin_prefetch(keys.values[p] + i, 0, 2);
    }
  }
  score_tile(task, tile, keys);
  for (std::size_t q = 0; q < tile.count; ++q) {
    if (tile.seen[q].from == tile.seen[q].to) continue;
    weigh(tile.scores + q * kKeyTile, tile.seen[q], keys.mask, task.scale, padded, tile.softmax[q],
          tile.sums + q * padded);
  }
  gather_values(tile, keys, padded);
}

void start_queries(const AttentionTask& task, QueryTile& tile, std::size_t first, std::size_t padded) {
  for (std::size_t q = 0; q < tile.count; ++q) {
    const std::size_t row = (first + q) / task.group;
    const float* query = task.q + row * task.q_stride + (first + q) % task.group * task.head_dim;
    for (std::size_t d = 0; d < task.head_dim; ++d) tile.queries[d * kQueryTile + q] = query[d];
    tile.end_key[q] = task.position + row + 1;
    tile.first_key[q] = task.window && tile.end_key[q] > task.window ? tile.end_key[q] - task.window : 0;
    tile.softmax[q] = Softmax{};
  }
  __builtin_memset(tile.sums, 0, tile.count * padded * sizeof(float));
}

void finish_queries(const AttentionTask& task, const QueryTile& tile, std::size_t first, std::size_t padded) {
  for (std::size_t q = 0; q < tile.count; ++q) {
    float* out = task.out + (first + q) / task.group * task.out_stride + (first + q) % task.group * task.head_dim;
    const float* sums = tile.sums + q * padded;
    const float sum = tile.softmax[q].sum;
    const Vec divisor = splat(sum == 0.0f ? 1.0f : sum);
    for_each_vec(task.head_dim, [&](auto get, auto put) { put(out, div(get(sums), divisor)); });
  }
}

}  // namespace

void attention(const AttentionTask& task) {
  const std::size_t padded = padded_dim(task.head_dim);
  const std::size_t total = task.rows * task.group;
  QueryTile tile;
  tile.sums = task.scratch;
  tile.scores = tile.sums + kQueryTile * padded;
  tile.queries = tile.scores + kQueryTile * kKeyTile;
  for (std::size_t first = 0; first < total; first += kQueryTile) {
    tile.count = total - first < kQueryTile ? total - first : kQueryTile;
    start_queries(task, tile, first, padded);
    const std::size_t end = tile.end_key[tile.count - 1];
    for (std::size_t start = tile.first_key[0] / kKeyTile * kKeyTile; start < end; start += kKeyTile) {
      run_key_tile(task, tile, start, padded);
    }
    finish_queries(task, tile, first, padded);
  }
}

}  // namespace cutset::CUTSET_ISA
