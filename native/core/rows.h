// The rows of one step: those of all its sequences, one after another, without padding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cutset {

// The C++ side of cutset.models.run.executor.Batch, which documents the fields.
struct Rows {
  std::size_t count = 0;
  std::size_t sequences = 0;
  const std::int32_t* row_starts = nullptr;    // (sequences + 1)
  const std::int32_t* context_lens = nullptr;  // (sequences)
  const std::int32_t* block_tables = nullptr;  // (sequences, table_width)
  std::size_t table_width = 0;
  const std::uint8_t* key_mask = nullptr;  // (sequences, mask_width), or nullptr
  std::size_t mask_width = 0;

  // Tokens of the sequence that lie in the cache before a row.
  std::size_t position(std::size_t sequence, std::size_t row) const {
    return static_cast<std::size_t>(context_lens[sequence]) -
           (static_cast<std::size_t>(row_starts[sequence + 1]) - row);
  }
};

// std::invalid_argument unless the rows fit together and into a cache of `blocks` blocks of `block_size` tokens.
void check_rows(const Rows& rows, std::size_t blocks, std::size_t block_size);

// Where a row's key and value go in the cache.
struct Slot {
  std::size_t block;
  std::size_t place;
};

// One for each row.
std::vector<Slot> cache_slots(const Rows& rows, std::size_t block_size);

// Consecutive rows of one sequence; their results go to consecutive rows of an output.
struct Span {
  std::size_t sequence;
  std::size_t first_row;  // in the batch
  std::size_t count;
  std::size_t out_row;
};

// All rows; or the `wanted` ones in that order, which may repeat.
std::vector<Span> all_spans(const Rows& rows);
std::vector<Span> wanted_spans(const Rows& rows, const std::int32_t* wanted, std::size_t count);

}  // namespace cutset
