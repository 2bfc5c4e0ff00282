// The glue kernels of this instruction set; documented in kernels/glue.h.
#pragma once

#include "kernels/glue.h"

namespace cutset::CUTSET_ISA {

void rms_norm(const float* x, const float* gain, float eps, std::size_t rows, std::size_t cols, float* out);

constexpr GlueKernels kGlue = {rms_norm};

}  // namespace cutset::CUTSET_ISA
