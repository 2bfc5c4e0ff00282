// Asks for packed weights before they are needed.
#pragma once

#include <cstddef>

#include "kernels/isa/simd.h"

namespace cutset::CUTSET_ISA {

// kBytes of a panel, 64 or 128, are about to be used, with kRows rows. With one row the loads alone keep memory busy,
// but for the ends of pages of 4 KiB, where the hardware's prefetch stops. More rows mean more work on each line and
// fewer lines under way, so these are fetched from farther, to the second cache first. (Distances found by
// measurement.)
template <std::size_t kRows, std::size_t kBytes = 128>
inline void fetch_ahead(const void* weights) {
  const char* at = static_cast<const char*>(weights);
  constexpr std::size_t kFar = kRows == 1 ? 2048 : kRows <= 4 ? 6144 : 8192;
  __builtin_prefetch(at + kFar, 0, 2);
  if constexpr (kBytes > 64) __builtin_prefetch(at + kFar + 64, 0, 2);
  if constexpr (kRows > 4) {
    __builtin_prefetch(at + 1024, 0, 3);
    if constexpr (kBytes > 64) __builtin_prefetch(at + 1024 + 64, 0, 3);
  }
}

// A row of a panel's results is about to be written: 128 bytes, perhaps across three lines.
inline void fetch_output(const void* results) {
  const char* at = static_cast<const char*>(results);
  __builtin_prefetch(at, 1, 3);
  __builtin_prefetch(at + 64, 1, 3);
}

}  // namespace cutset::CUTSET_ISA
