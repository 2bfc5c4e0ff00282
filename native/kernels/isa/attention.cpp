// Causal attention over the paged cache, with an online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867) over
// key tiles at absolute positions.
//
// A query meets the same tiles, in the same order, with the same arithmetic, whoever its neighbours in the query tile
// are, and never touches a key or a value that it may not see. That makes it batch invariant.
#include "kernels/isa/attention_products.h"
#include "kernels/isa/glue.h"

namespace cutset::CUTSET_ISA {

namespace {

// Up to that many queries wait for memory; then values are asked for while scores are computed, and codes of the next
// keys while values are added up. (With floats that makes it slower: their packs are long enough for the hardware.)
constexpr std::size_t kFewQueries = 16;

// What queries have gathered, relative to their largest scores: for each, attention_state(head_dim) floats.
struct States {
  float* memory;
  std::size_t padded;

  float* sums(std::size_t q) const { return memory + q * (padded + kStateMore); }
  float& biggest(std::size_t q) const { return sums(q)[padded]; }
  float& sum(std::size_t q) const { return sums(q)[padded + 1]; }

  void clear(std::size_t count) const {
    __builtin_memset(memory, 0, count * (padded + kStateMore) * sizeof(float));
    for (std::size_t q = 0; q < count; ++q) biggest(q) = -kInfinity;
  }

  void scale(std::size_t q, float factor) const {
    sum(q) *= factor;
    for (std::size_t c = 0; c < padded; c += kLanes) store(sums(q) + c, mul(load(sums(q) + c), splat(factor)));
  }

  // Takes in what was gathered in a later part.
  void merge(std::size_t count, const States& part) const {
    for (std::size_t q = 0; q < count; ++q) {
      if (part.biggest(q) == -kInfinity) continue;
      if (!(part.biggest(q) <= biggest(q))) {
        scale(q, exp(biggest(q) - part.biggest(q)));
        biggest(q) = part.biggest(q);
      }
      const float factor = exp(part.biggest(q) - biggest(q));
      sum(q) += factor * part.sum(q);
      for (std::size_t c = 0; c < padded; c += kLanes) {
        store(sums(q) + c, fma(splat(factor), load(part.sums(q) + c), load(sums(q) + c)));
      }
    }
  }
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
  Range seen[kQueryTile];  // of the key tile at hand
  float* queries;          // (head_dim, kQueryTile)
  States gathered;         // in the part at hand
  float* scores;           // (kQueryTile, kKeyTile)
};

// T: float, or std::int8_t for codes, which scales belong to.
template <class T>
struct KeyTile {
  const std::uint8_t* mask;  // of its first token, or nullptr
  const T* keys[kTilePacks];
  const T* values[kTilePacks];
  const T* next[kTilePacks];  // keys of the next tile, or of this one where there is none
  const float* key_scales[kTilePacks];
  const float* value_scales[kTilePacks];
};

// Turns the scores of one query into weights, and rescales what it has gathered if a larger score came up.
void weigh(float* scores, Range& seen, const std::uint8_t* mask, float scale, float cap, const States& gathered,
           std::size_t q) {
  const std::size_t first = seen.from / kLanes * kLanes;
  const std::size_t last = (seen.to + kLanes - 1) / kLanes * kLanes;
  if (cap > 0.0f) {
    const Vec inner = splat(scale / cap);
    for (std::size_t t = first; t < last; t += kLanes) {
      store(scores + t, mul(splat(cap), tanh(mul(load(scores + t), inner))));
    }
    scale = 1.0f;
  }
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
  if (!(biggest <= gathered.biggest(q))) {
    gathered.scale(q, exp(gathered.biggest(q) - biggest));
    gathered.biggest(q) = biggest;
  }
  const Vec base = splat(-gathered.biggest(q));
  Vec total = splat(0.0f);
  for (std::size_t t = first; t < last; t += kLanes) {
    const Vec weights = exp(fma(load(scores + t), splat(scale), base));
    store(scores + t, weights);
    total = add(total, weights);
  }
  gathered.sum(q) += sum_lanes(total);
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

// x[t] *= the scale of token t, for those seen; scores of others become anything, and aren't read.
void apply_scales(float* x, const Range& seen, const float* const* scales) {
  const std::size_t last = (seen.to + kLanes - 1) / kLanes * kLanes;
  for (std::size_t t = seen.from / kLanes * kLanes; t < last; t += kLanes) {
    store(x + t, mul(load(x + t), load(scales[t / kPackTokens] + t % kPackTokens)));
  }
}

template <class T>
void score_tile(const AttentionTask& task, QueryTile& tile, const KeyTile<T>& keys) {
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
    const std::size_t first = from / kPackTokens;
    const std::size_t last = (to + kPackTokens - 1) / kPackTokens;
    float* scores = tile.scores + q * kKeyTile;
    with_queries(count, [&](auto n) {
      if (q == 0 && tile.count <= kFewQueries) {
        score_queries<n.value, true>(tile.queries, keys.keys, keys.values, first, last, task.head_dim, scores);
      } else {
        score_queries<n.value, false>(tile.queries + q, keys.keys, keys.keys, first, last, task.head_dim, scores);
      }
    });
  }
}

// Adds the weighted values of a run of unmasked tokens: those that all queries of a register tile see together, those
// before and after query by query.
template <class T>
void gather_run(QueryTile& tile, const KeyTile<T>& keys, std::size_t padded, Range run) {
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
    float* sums = tile.gathered.sums(q);
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t to = own[i].to < common.from ? own[i].to : common.from;
      add_all_values<1>(weights + i * kKeyTile, keys.values, keys.next, padded, own[i].from, to,
                        sums + i * (padded + kStateMore));
    }
    if (common.from == common.to) continue;
    with_queries(count, [&](auto n) {
      if (sizeof(T) == 1 && q == 0 && tile.count <= kFewQueries) {
        add_all_values<n.value, true>(weights, keys.values, keys.next, padded, common.from, common.to, sums);
      } else {
        add_all_values<n.value>(weights, keys.values, keys.next, padded, common.from, common.to, sums);
      }
    });
    for (std::size_t i = 0; i < count; ++i) {
      add_all_values<1>(weights + i * kKeyTile, keys.values, keys.next, padded, common.to, own[i].to,
                        sums + i * (padded + kStateMore));
    }
  }
}

template <class T>
void gather_values(QueryTile& tile, const KeyTile<T>& keys, std::size_t padded) {
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

template <class T>
void run_key_tile(const AttentionTask& task, QueryTile& tile, std::size_t start, std::size_t padded) {
  constexpr bool kCodes = sizeof(T) == 1;
  constexpr CacheType kType = kCodes ? CacheType::kInt8 : CacheType::kFloat32;
  KeyTile<T> keys;
  keys.mask = task.key_mask ? task.key_mask + start : nullptr;
  const std::size_t first = tile.first_key[0];
  const std::size_t end = tile.end_key[tile.count - 1];
  const auto pack_of = [&](const float* heads, std::size_t stride, std::size_t token, std::size_t pack) {
    const auto block = static_cast<std::size_t>(task.block_table[token / task.block_size]);
    return heads + block * stride + token % task.block_size / kPackTokens * pack;
  };
  const auto elements = [](const float* pack) {
    if constexpr (kCodes) {
      return pack ? reinterpret_cast<const T*>(pack + kPackTokens) : nullptr;
    } else {
      return pack;
    }
  };
  for (std::size_t p = 0; p < kTilePacks; ++p) {
    const std::size_t token = start + p * kPackTokens;
    const bool seen = token + kPackTokens > first && token < end;
    const std::size_t key_floats = key_pack(kType, task.head_dim);
    const std::size_t value_floats = key_pack(kType, padded);
    keys.key_scales[p] = seen ? pack_of(task.keys, task.key_stride, token, key_floats) : nullptr;
    keys.value_scales[p] = seen ? pack_of(task.values, task.value_stride, token, value_floats) : nullptr;
    keys.keys[p] = elements(keys.key_scales[p]);
    keys.values[p] = elements(keys.value_scales[p]);
    keys.next[p] = keys.keys[p];
    if (kCodes && token + kKeyTile < end) {
      const float* scales = pack_of(task.keys, task.key_stride, token + kKeyTile, key_floats);
      __builtin_prefetch(scales);
      keys.next[p] = elements(scales);
    }
    if (kCodes && seen) __builtin_prefetch(keys.value_scales[p]);
  }
  for (std::size_t q = 0; q < tile.count; ++q) {
    const std::size_t from = tile.first_key[q] > start ? tile.first_key[q] - start : 0;
    const std::size_t to = tile.end_key[q] < start + kKeyTile ? tile.end_key[q] : start + kKeyTile;
    tile.seen[q] = to > start + from ? Range{from, to - start} : Range{0, 0};
  }
  score_tile(task, tile, keys);
  for (std::size_t q = 0; q < tile.count; ++q) {
    if (tile.seen[q].from == tile.seen[q].to) continue;
    float* scores = tile.scores + q * kKeyTile;
    if constexpr (kCodes) apply_scales(scores, tile.seen[q], keys.key_scales);
    weigh(scores, tile.seen[q], keys.mask, task.scale, task.softcap, tile.gathered, q);
    if constexpr (kCodes) apply_scales(scores, tile.seen[q], keys.value_scales);
  }
  gather_values(tile, keys, padded);
}

void start_queries(const AttentionTask& task, QueryTile& tile, std::size_t first) {
  for (std::size_t q = 0; q < tile.count; ++q) {
    const std::size_t row = (first + q) / task.group;
    const float* query = task.q + row * task.q_stride + (first + q) % task.group * task.head_dim;
    for (std::size_t d = 0; d < task.head_dim; ++d) tile.queries[d * kQueryTile + q] = query[d];
    tile.end_key[q] = task.position + row + 1;
    tile.first_key[q] = task.window && tile.end_key[q] > task.window ? tile.end_key[q] - task.window : 0;
  }
}

void finish_queries(const AttentionTask& task, const States& gathered, std::size_t first, std::size_t count) {
  for (std::size_t q = 0; q < count; ++q) {
    float* out = task.out + (first + q) / task.group * task.out_stride + (first + q) % task.group * task.head_dim;
    const float* sums = gathered.sums(q);
    float sum = gathered.sum(q);
    if (task.sinks) {
      const float sink = task.sinks[(first + q) % task.group];
      if (sink > gathered.biggest(q)) {
        gathered.scale(q, exp(gathered.biggest(q) - sink));
        gathered.biggest(q) = sink;
      }
      sum = gathered.sum(q) + exp(sink - gathered.biggest(q));
    }
    const Vec divisor = splat(sum == 0.0f ? 1.0f : sum);
    for_each_vec(task.head_dim, [&](auto get, auto put) { put(out, div(get(sums), divisor)); });
  }
}

QueryTile make_tile(const AttentionTask& task, std::size_t first) {
  const std::size_t total = task.rows * task.group;
  QueryTile tile;
  tile.count = total - first < kQueryTile ? total - first : kQueryTile;
  tile.gathered = {task.scratch, padded_dim(task.head_dim)};
  tile.scores = task.scratch + 2 * kQueryTile * attention_state(task.head_dim);
  tile.queries = tile.scores + kQueryTile * kKeyTile;
  start_queries(task, tile, first);
  return tile;
}

void run_part(const AttentionTask& task, QueryTile& tile, std::size_t part) {
  tile.gathered.clear(tile.count);
  const std::size_t part_end = (part + 1) * kPartTokens;
  const std::size_t end = tile.end_key[tile.count - 1] < part_end ? tile.end_key[tile.count - 1] : part_end;
  const std::size_t first = tile.first_key[0] > part * kPartTokens ? tile.first_key[0] : part * kPartTokens;
  for (std::size_t start = first / kKeyTile * kKeyTile; start < end; start += kKeyTile) {
    if (task.type == CacheType::kInt8) {
      run_key_tile<std::int8_t>(task, tile, start, tile.gathered.padded);
    } else {
      run_key_tile<float>(task, tile, start, tile.gathered.padded);
    }
  }
}

}  // namespace

void attention(const AttentionTask& task) {
  for (std::size_t first = 0; first < task.rows * task.group; first += kQueryTile) {
    QueryTile tile = make_tile(task, first);
    const States all = {task.scratch + kQueryTile * attention_state(task.head_dim), tile.gathered.padded};
    all.clear(tile.count);
    for (std::size_t p = tile.first_key[0] / kPartTokens; p * kPartTokens < tile.end_key[tile.count - 1]; ++p) {
      run_part(task, tile, p);
      all.merge(tile.count, tile.gathered);
    }
    finish_queries(task, all, first, tile.count);
  }
}

void attention_part(const AttentionTask& task, std::size_t part, float* states) {
  QueryTile tile = make_tile(task, 0);
  tile.gathered.memory = states;
  run_part(task, tile, part);
}

void attention_merge(const AttentionTask& task, const float* states, std::size_t parts) {
  const std::size_t count = task.rows * task.group;
  const States all = {task.scratch, padded_dim(task.head_dim)};
  all.clear(count);
  for (std::size_t p = 0; p < parts; ++p) {
    // Parts are only read.
    all.merge(count, {const_cast<float*>(states) + p * count * attention_state(task.head_dim), all.padded});
  }
  finish_queries(task, all, 0, count);
}

}  // namespace cutset::CUTSET_ISA
