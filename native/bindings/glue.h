// Registers the kernels between two linears.
#pragma once

#include <nanobind/nanobind.h>

void bind_glue(nanobind::module_& m);
