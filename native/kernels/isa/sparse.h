// The kernels of incremental inference of this instruction set; documented in kernels/sparse.h.
#pragma once

#include "kernels/sparse.h"

namespace cutset::CUTSET_ISA {

void sparse_conv(const ConvTask& task);
void sparse_depthwise(const float* row, const std::ptrdiff_t* taps, std::size_t tap_count, const float* weights,
                      const float* start, std::size_t channels, float* y);
void sparse_largest(const float* const* places, std::size_t count, std::size_t channels, float* y);
void sparse_mean(const float* const* places, std::size_t count, float factor, std::size_t channels, float* y);
void sparse_blend(const float* const* places, const float* weights, std::size_t count, std::size_t channels, float* y);
void sparse_affine(const float* x, const float* scale, const float* shift, std::size_t channels, float* y);
void sparse_combine(Combine kind, const float* a, const float* b, std::size_t channels, float* y);
void sparse_activate(SparseActivation kind, float parameter, std::size_t count, float* y);
bool sparse_settle(const float* fresh, float threshold, std::size_t channels, float* held);

// The most positions of sparse_conv: each takes a register for its address beside those for its sums.
#if defined(CUTSET_ISA_avx512) || defined(CUTSET_ISA_avx512vnni)
constexpr std::size_t kConvRows = 8;
#elif defined(CUTSET_ISA_avx2) || defined(__aarch64__)
constexpr std::size_t kConvRows = 3;
#else
constexpr std::size_t kConvRows = 1;
#endif

constexpr SparseKernels kSparse = {kConvRows,    sparse_conv,   sparse_depthwise, sparse_largest,  sparse_mean,
                                   sparse_blend, sparse_affine, sparse_combine,   sparse_activate, sparse_settle};

}  // namespace cutset::CUTSET_ISA
