// The linear kernels of this instruction set; documented in kernels/linear.h.
#pragma once

#include "kernels/linear.h"

namespace cutset::CUTSET_ISA {

constexpr LinearKernels kLinear = {};

}  // namespace cutset::CUTSET_ISA
