// Registers the linear layers and the thread pool.
#pragma once

#include <nanobind/nanobind.h>

void bind_linears(nanobind::module_& m);
