// Arrays as numpy.load reads them (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
#pragma once

#include <string>

#include "runner/spec.h"

namespace cutset::runner {

// Error where no file can be made there; better known before the work than after it.
void check_target(const std::string& path);

// Writes float32 values in C order, format version 1.0. The file appears under its name when it is complete.
void write_npy(const std::string& path, const Shape& shape, const float* values);

}  // namespace cutset::runner
