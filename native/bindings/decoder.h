#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <memory>
#include <string>
#include <vector>

#include "core/decoder.h"

namespace cutset::bindings {

constexpr const char* kSites[] = {"qkv", "o", "gate_up", "down", "lm_head"};

inline Site site_named(const std::string& name) {
  for (int i = 0; i < 5; ++i) {
    if (name == kSites[i]) return static_cast<Site>(i);
  }
  throw nanobind::value_error("there is no such site");
}

// A decoder and the arrays that its parameters lie in.
struct PyDecoder {
  std::vector<nanobind::ndarray<>> arrays;
  std::unique_ptr<Decoder> decoder;

  const DecoderSpec& spec() const { return decoder->spec(); }
};

}  // namespace cutset::bindings

void bind_decoder(nanobind::module_& m);
