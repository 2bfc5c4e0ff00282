// What the user asks for.
#pragma once

#include <optional>
#include <string>

#include "runner/model.h"

namespace cutset::runner {

struct Options {
  std::string model;   // an exchange file or a checkpoint directory
  std::string output;  // .npy
  std::string inputs;  // an exchange file whose inputs are taken; empty: the model's own
  std::optional<Precision> precision;
  int threads = 0;  // 0: all cores
  int warmup = 0;
  int repeat = 1;
  bool help = false;
};

// Error for what makes no sense.
Options parse_options(int count, const char* const* words);

const char* help_text();

}  // namespace cutset::runner
