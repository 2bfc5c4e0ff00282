// Looking rows of a table up without telling which: every entry is read, whichever are wanted.
#include "kernels/isa/glue.h"

namespace cutset::CUTSET_ISA {

namespace {

constexpr std::size_t kTogether = 8;  // rows for which an entry is read once: what they get stays in the nearest cache

// 0xff where both are the same, else 0. The compiler can't know that it is one of these, so it can't branch on it.
inline std::uint8_t same(std::uint32_t a, std::uint32_t b) {
  const std::uint32_t other = a ^ b;
  std::uint32_t mask = ((other | (0u - other)) >> 31) - 1u;
  __asm__("" : "+r"(mask));
  return static_cast<std::uint8_t>(mask);
}

inline void merge(std::uint8_t* __restrict to, const std::uint8_t* __restrict from, std::uint8_t mask,
                  std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i) to[i] = static_cast<std::uint8_t>(to[i] | (from[i] & mask));
}

}  // namespace

void scan(const TableScan& scan) {
  for (std::size_t begin = 0; begin < scan.rows; begin += kTogether) {
    const std::size_t end = begin + kTogether < scan.rows ? begin + kTogether : scan.rows;
    for (std::size_t e = 0; e < scan.entries; ++e) {
      const std::uint32_t id = static_cast<std::uint32_t>(scan.first + e);
      for (std::size_t r = begin; r < end; ++r) {
        const std::uint8_t mask = same(static_cast<std::uint32_t>(scan.ids[r]), id);
        merge(scan.out + r * scan.out_stride, scan.table + e * scan.stride, mask, scan.bytes);
      }
    }
  }
}

}  // namespace cutset::CUTSET_ISA
