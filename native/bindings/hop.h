#pragma once

#include <nanobind/nanobind.h>

void bind_hop(nanobind::module_& m);
