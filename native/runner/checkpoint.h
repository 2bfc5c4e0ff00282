// Checkpoints: a directory with config.json and safetensors, single or sharded, float or integer.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runner/tensor.h"

namespace cutset::runner {

class Checkpoint {
 public:
  // Error for a directory without a readable model, or whose files lie about themselves.
  explicit Checkpoint(const std::string& directory);

  // As its specification.json has it. Error for one that is missing, or of another config.json.
  ModelSpec spec() const;
  Tensors tensors(const ModelSpec& spec) const;

 private:
  Tensors all() const;

  std::string directory_;
  std::vector<std::unique_ptr<MappedFile>> files_;
};

// The tensors of one safetensors file. Error for a file that is cut off or lies about itself.
Tensors safetensors(const MappedFile& file);

}  // namespace cutset::runner
