// Registers the delta codec's kernels.
#pragma once

#include <nanobind/nanobind.h>

void bind_delta(nanobind::module_& m);
