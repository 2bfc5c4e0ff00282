// Registers the linear layers of grouped weights.
#pragma once

#include <nanobind/nanobind.h>

void bind_grouped(nanobind::module_& m);
