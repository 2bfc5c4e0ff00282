// What the files of Step have in common.
#pragma once

#include <cstddef>
#include <cstring>

#include "core/split.h"
#include "core/step.h"
#include "kernels/table.h"

namespace cutset {

// body(begin, end) for ranges of rows, in this thread alone where there is little to do.
template <class Body>
void each_rows(ThreadPool& pool, std::size_t rows, std::size_t columns, const Body& body) {
  constexpr std::size_t kTooSmall = std::size_t{1} << 14;
  if (rows * columns < kTooSmall || pool.threads() == 1) return body(0, rows);
  run_ranges(pool, rows, rows_a_task(pool, rows, columns), body);
}

// out = norm(x), or x where there is no norm;  x, out: (rows, hidden)
inline void normalise(const float* x, const float* gain, const DecoderSpec& spec, std::size_t rows, float* out) {
  if (gain) {
    kernels().glue.rms_norm(x, gain, spec.norm_eps, rows, spec.hidden, out);
  } else {
    std::memcpy(out, x, rows * spec.hidden * sizeof(float));
  }
}

}  // namespace cutset
