// A JSON file without its long strings, which are found and not parsed.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string_view>

#include "runner/file.h"
#include "runner/json.h"

namespace cutset::runner {

class Skeleton {
 public:
  // Error for a file that is cut off, is no JSON object, or holds more than 256 MiB beside its long strings.
  explicit Skeleton(const MappedFile& file);

  const MappedFile& file() const { return file_; }

  // A long string stands in it as the array [begin, end] of its place in the file.
  const Json& document() const { return document_; }

  // The characters of a string of the document, a long one's as the file has them; nothing for other values.
  std::optional<std::string_view> string(const Json& value) const;

 private:
  std::size_t end_of_string(std::size_t begin) const;

  const MappedFile& file_;
  std::map<std::size_t, std::size_t> long_strings_;  // begin to end
  Json document_;
};

}  // namespace cutset::runner
