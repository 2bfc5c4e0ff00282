// Masks and checks in the field of kernels/field.h, shared out over threads. Matrices are row-major and contiguous.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/pool.h"
#include "kernels/field.h"

namespace cutset {

// out (n) = (q + r) mod P; r residues.
void mask(ThreadPool& pool, const std::int16_t* q, const std::uint32_t* r, std::size_t n, std::uint32_t* out);

// out (rows, vectors) = x (rows, depth) . v (vectors, depth)^T mod P, for int16, int32 or uint32 of any value.
template <class Integer>
void dots(ThreadPool& pool, const Integer* x, std::size_t rows, std::size_t depth, const std::uint32_t* v,
          std::size_t vectors, std::uint32_t* out);

// out (vectors, depth) = s (vectors, outputs) . weight (outputs, depth) mod P.
void project(ThreadPool& pool, const std::int8_t* weight, std::size_t outputs, std::size_t depth,
             const std::uint32_t* s, std::size_t vectors, std::uint32_t* out);

// SettleJob of any number of rows. Where something is wrong, `out` is zeros.
Verdict settle(ThreadPool& pool, const SettleJob& job);

}  // namespace cutset
