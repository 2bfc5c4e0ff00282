#pragma once

#include <nanobind/nanobind.h>

void bind_server(nanobind::module_& m);
