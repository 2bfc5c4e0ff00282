#pragma once

#include <nanobind/nanobind.h>

void bind_remote(nanobind::module_& m);
