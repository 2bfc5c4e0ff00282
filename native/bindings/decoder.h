// Registers the decoder core: decoders, caches, steps, local linears.
#pragma once

#include <nanobind/nanobind.h>

void bind_decoder(nanobind::module_& m);
