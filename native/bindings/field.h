// Registers the kernels of the prime field.
#pragma once

#include <nanobind/nanobind.h>

void bind_field(nanobind::module_& m);
