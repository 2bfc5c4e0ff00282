#include "core/rows.h"

#include <algorithm>
#include <stdexcept>

namespace cutset {

namespace {

void require(bool right, const char* message) {
  if (!right) throw std::invalid_argument(message);
}

void check_sequence(const Rows& rows, std::size_t s, std::size_t blocks, std::size_t block_size) {
  const std::int64_t own = std::int64_t{rows.row_starts[s + 1]} - rows.row_starts[s];
  const std::int64_t context = rows.context_lens[s];
  require(own >= 0 && own <= context, "a sequence has more rows than tokens in its context, or fewer than none");
  const std::size_t used = (static_cast<std::size_t>(context) + block_size - 1) / block_size;
  require(used <= rows.table_width, "a sequence has more tokens than its block table has room for");
  require(!rows.key_mask || static_cast<std::size_t>(context) <= rows.mask_width,
          "key_mask must be (sequences, longest context)");
  for (std::size_t b = 0; b < used; ++b) {
    const std::int32_t block = rows.block_tables[s * rows.table_width + b];
    require(block >= 0 && static_cast<std::size_t>(block) < blocks, "a block table names a block that isn't there");
  }
}

}  // namespace

void check_rows(const Rows& rows, std::size_t blocks, std::size_t block_size) {
  require(rows.row_starts[0] == 0, "row_starts must begin with 0");
  for (std::size_t s = 0; s < rows.sequences; ++s) check_sequence(rows, s, blocks, block_size);
  require(static_cast<std::size_t>(rows.row_starts[rows.sequences]) == rows.count,
          "row_starts must end with the number of rows");
}

std::vector<Slot> cache_slots(const Rows& rows, std::size_t block_size) {
  std::vector<Slot> slots(rows.count);
  for (std::size_t s = 0; s < rows.sequences; ++s) {
    for (std::size_t r = rows.row_starts[s]; r < static_cast<std::size_t>(rows.row_starts[s + 1]); ++r) {
      const std::size_t token = rows.position(s, r);
      const std::int32_t block = rows.block_tables[s * rows.table_width + token / block_size];
      slots[r] = {static_cast<std::size_t>(block), token % block_size};
    }
  }
  return slots;
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

}  // namespace cutset
