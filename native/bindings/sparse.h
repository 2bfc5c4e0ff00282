// Incremental inference for Python.
#pragma once

#include <nanobind/nanobind.h>

void bind_sparse(nanobind::module_& m);
