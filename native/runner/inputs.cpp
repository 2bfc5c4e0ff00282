#include <algorithm>
#include <limits>

#include "runner/base64.h"
#include "runner/error.h"
#include "runner/exchange.h"

namespace cutset::runner {

namespace {

// Whole numbers of shape (batch, tokens), as int32.
std::vector<std::int32_t> read_numbers(const Tensor& tensor, ThreadPool& pool) {
  const bool bytes = tensor.dtype == Dtype::kU8;
  if ((!bytes && tensor.dtype != Dtype::kI32) || tensor.shape.size() != 2) {
    fail(tensor.where, " must hold int32 or uint8 of shape (batch, tokens)");
  }
  const std::size_t count = elements(tensor.shape, tensor.where);
  const std::size_t wanted = base64_size(count * width(tensor.dtype));
  if (tensor.data.size() != wanted) {
    fail(tensor.where, " has ", tensor.data.size(), " base64 characters; its shape asks for ", wanted);
  }
  std::vector<std::int32_t> numbers(count);
  if (!bytes) {
    tensor.read(pool, numbers.data());
    return numbers;
  }
  std::vector<std::uint8_t> narrow(count);
  tensor.read(pool, narrow.data());
  numbers.assign(narrow.begin(), narrow.end());
  return numbers;
}

void check(const Inputs& inputs, const ModelSpec& spec, const std::string& path) {
  const auto vocab = static_cast<std::int32_t>(spec.core.vocab);
  if (std::any_of(inputs.ids.begin(), inputs.ids.end(), [=](std::int32_t id) { return id < 0 || id >= vocab; })) {
    fail(path, ": inputs must be ids below ", vocab);
  }
  if (inputs.tokens > spec.longest()) {
    fail(path, ": inputs have ", inputs.tokens, " tokens; the model has ", spec.longest(), " positions");
  }
  if (inputs.ids.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    fail(path, ": inputs have too many tokens for one pass");
  }
}

}  // namespace

std::optional<Inputs> ExchangeFile::inputs(const ModelSpec& spec, ThreadPool& pool) const {
  const Json& entries = member(skeleton_.document(), "inputs");
  if (entries.is_null()) return std::nullopt;
  const std::string where = file_.path() + ": inputs.";
  if (!entries.contains("input_ids")) fail(file_.path(), ": its inputs have no input_ids");
  const Tensor ids = described(entries["input_ids"], where + "input_ids");
  Inputs inputs;
  inputs.ids = read_numbers(ids, pool);
  inputs.batch = ids.shape[0];
  inputs.tokens = ids.shape[1];
  Shape mask_shape = ids.shape;
  inputs.mask.assign(inputs.ids.size(), 1);
  if (entries.contains("attention_mask")) {
    const Tensor mask = described(entries["attention_mask"], where + "attention_mask");
    const std::vector<std::int32_t> numbers = read_numbers(mask, pool);
    mask_shape = mask.shape;
    if (std::any_of(numbers.begin(), numbers.end(), [](std::int32_t seen) { return seen != 0 && seen != 1; })) {
      fail(where, "attention_mask must hold zeros and ones");
    }
    inputs.mask.assign(numbers.begin(), numbers.end());
  }
  if (mask_shape != ids.shape || inputs.ids.empty()) {
    fail(file_.path(), ": inputs have shapes ", text(ids.shape), " and ", text(mask_shape),
         "; they must be equal and not empty");
  }
  check(inputs, spec, file_.path());
  return inputs;
}

}  // namespace cutset::runner
