// Exchange files: one JSON file with a model, its inputs and base64 weights. See docs/exchange-format.md.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runner/skeleton.h"
#include "runner/tensor.h"

namespace cutset::runner {

// Whole sequences, (batch, tokens) each.
struct Inputs {
  std::size_t batch = 0;
  std::size_t tokens = 0;
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> mask;  // 1 for a token, 0 for padding
};

class ExchangeFile {
 public:
  // Error for a file that is cut off or of another format.
  explicit ExchangeFile(const std::string& path);

  // Error for a file of an older version, or without a specification in range.
  ModelSpec spec(Weights allowed) const;

  // The tensors of a model. Error for a file that lies about them; each is decoded when it is read.
  Tensors tensors(const ModelSpec& spec) const;

  // The value of that name at the top, or null.
  const Json& value(const char* name) const { return member(skeleton_.document(), name); }

  // Nothing if the file has none. Error for ids and masks that are out of range for the model.
  std::optional<Inputs> inputs(const ModelSpec& spec, ThreadPool& pool) const;

 private:
  Tensor described(const Json& entry, const std::string& where) const;
  // The weight of an entry at a place below `weights`. Error for one of another shape or kind.
  Tensor weight(const Json& entry, const std::string& place, const Shape& shape) const;

  MappedFile file_;
  Skeleton skeleton_;
};

}  // namespace cutset::runner
