// The kernels of linear layers: packing of weights, float32 products, 8-bit products.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cutset {

struct LinearKernels {};

}  // namespace cutset
