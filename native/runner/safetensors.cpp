// https://huggingface.co/docs/safetensors: eight bytes of little-endian length, a JSON header of that length, then the
// tensors' bytes. Everything in the header is checked against the file's size before it is used.
#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "runner/checkpoint.h"
#include "runner/error.h"
#include "runner/json.h"

namespace cutset::runner {

namespace {

constexpr std::uint64_t kMostHeaderBytes = 100'000'000;  // the format's own limit
constexpr std::size_t kMostDimensions = 8;
constexpr std::uint64_t kMostSize = std::uint64_t{1} << 48;

[[noreturn]] void wrong(const MappedFile& file, const std::string& what) {
  fail(file.path(), ": ", what, "; the file is damaged or not in safetensors format");
}

// A list of sizes or offsets: no floats, none negative or absurd.
bool whole_numbers(const Json& value) {
  if (!value.is_array()) return false;
  return std::all_of(value.begin(), value.end(), [](const Json& number) {
    return number.is_number_unsigned() && number.get<std::uint64_t>() < kMostSize;
  });
}

Dtype dtype_named(const Json& value, const std::string& where) {
  static const std::map<std::string, Dtype> dtypes = [] {
    std::map<std::string, Dtype> table;
    for (int i = 0; i <= static_cast<int>(Dtype::kBool); ++i)
      table[name(static_cast<Dtype>(i))] = static_cast<Dtype>(i);
    return table;
  }();
  const auto known = value.is_string() ? dtypes.find(value.get<std::string>()) : dtypes.end();
  if (known == dtypes.end()) fail(where, " has dtype ", quoted(value), "; this program doesn't know it");
  return known->second;
}

// Where a tensor's bytes begin and end after the header.
using Span = std::pair<std::size_t, std::size_t>;

Span read_entry(const MappedFile& file, const std::string& name, const Json& entry, std::string_view data,
                Tensors& tensors) {
  Tensor tensor{file.path() + ": " + name, Dtype::kF32, {}, {}, false, &file};
  tensor.dtype = dtype_named(member(entry, "dtype"), tensor.where);
  const Json& shape = member(entry, "shape");
  const Json& offsets = member(entry, "data_offsets");
  const bool right = whole_numbers(shape) && shape.size() <= kMostDimensions && whole_numbers(offsets);
  if (!right || offsets.size() != 2) wrong(file, name + " has no valid shape or offsets");
  for (const Json& size : shape) tensor.shape.push_back(size.get<std::size_t>());
  const Span span = {offsets[0].get<std::size_t>(), offsets[1].get<std::size_t>()};
  const std::size_t bytes = elements(tensor.shape, tensor.where) * width(tensor.dtype);
  if (span.first > span.second || span.second > data.size() || span.second - span.first != bytes) {
    wrong(file, name + " claims bytes " + std::to_string(span.first) + " to " + std::to_string(span.second) + " of " +
                    std::to_string(data.size()) + " for " + runner::name(tensor.dtype) + " " + text(tensor.shape));
  }
  tensor.data = data.substr(span.first, bytes);
  tensors.emplace(name, std::move(tensor));
  return span;
}

}  // namespace

Tensors safetensors(const MappedFile& file) {
  const std::string_view bytes = file.bytes();
  if (bytes.size() < 8) wrong(file, std::to_string(bytes.size()) + " bytes are too few for a header");
  std::uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<unsigned char>(bytes[i]);
  if (length > kMostHeaderBytes || length > bytes.size() - 8) {
    wrong(file, "its header claims " + std::to_string(length) + " bytes, the file has " + std::to_string(bytes.size()));
  }
  const Json header = parse_json(bytes.substr(8, length), file.path() + ": its header", Duplicates::kRefused);
  if (!header.is_object()) wrong(file, "its header is not an object");
  const std::string_view data = bytes.substr(8 + length);
  Tensors tensors;
  std::vector<Span> spans;
  for (const auto& item : header.items()) {
    if (item.key() != "__metadata__") {
      spans.push_back(read_entry(file, item.key(), item.value(), data, tensors));
    } else if (!item.value().is_object() || !std::all_of(item.value().begin(), item.value().end(),
                                                         [](const Json& text) { return text.is_string(); })) {
      wrong(file, "its metadata is not a table of strings");
    }
  }
  // The format allows neither holes nor overlaps: bytes that no tensor owns could smuggle, shared ones confuse.
  std::sort(spans.begin(), spans.end());
  std::size_t at = 0;
  for (const Span& span : spans) {
    if (span.first != at) wrong(file, "its tensors overlap or leave holes");
    at = span.second;
  }
  if (at != data.size()) {
    wrong(file, "its tensors end at byte " + std::to_string(at) + " of " + std::to_string(data.size()));
  }
  return tensors;
}

}  // namespace cutset::runner
