// Products of grouped weights, panel after panel; the sums themselves are in grouped_words.cpp, grouped_bytes.cpp and
// grouped_tiles.cpp.
#include "kernels/isa/grouped.h"

namespace cutset::CUTSET_ISA {

void grouped_multiply(const GroupedJob& job) {
#if defined(CUTSET_ISA_amx)
  if (job.count >= kTileLeast) return grouped_tiles(job);
#endif
  constexpr std::size_t kRowsAtATime = 64;
  const PanelForm& form = *job.form;
  const std::size_t limb_bytes = grouped_limb_bytes(form);
  alignas(64) float totals[kRowsAtATime][kPanel];
  Factors factors;
  for (std::size_t at = 0; at < job.outputs; at += kPanel) {
    const std::uint8_t* panel = job.panels + at / kPanel * form.bytes;
    const std::size_t columns = job.outputs - at < kPanel ? job.outputs - at : kPanel;
    for (std::size_t row = 0; row < job.count; row += kRowsAtATime) {
      const std::size_t rows = job.count - row < kRowsAtATime ? job.count - row : kRowsAtATime;
      const std::size_t blocks = (rows + kMostBlockRows - 1) / kMostBlockRows;
      __builtin_memset(totals, 0, rows * sizeof totals[0]);
      for (std::size_t g = 0; g < form.groups; g += kGroupsAtATime) {
        const std::size_t count = form.groups - g < kGroupsAtATime ? form.groups - g : kGroupsAtATime;
        grouped_factors(form, panel, g, count, factors);
        fetch_factors(form, panel, g + count, kGroupsAtATime);
        for (std::size_t b = 0; b < blocks; ++b) {
          const std::size_t first = rows * b / blocks, end = rows * (b + 1) / blocks;
          GroupedRows part = job.rows;
          part.q += (row + first) * form.depth;
          part.sums += (row + first) * form.groups;
          part.limbs += (row + first) * limb_bytes;
          grouped_block(form, end - first)(form, part, panel, g, count, factors, totals + first);
        }
      }
      for (std::size_t r = 0; r < rows; ++r) {
        const float scale = job.rows.scales[row + r];
        float* y = job.y + (row + r) * job.stride + at;
        for (std::size_t c = 0; c < columns; ++c) y[c] = totals[r][c] * scale;
      }
    }
  }
}

}  // namespace cutset::CUTSET_ISA
