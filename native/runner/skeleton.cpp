#include "runner/skeleton.h"

#include <string>

#include "runner/error.h"

namespace cutset::runner {

namespace {

constexpr std::size_t kLong = 1024;  // characters from which a string is left in the file
constexpr std::size_t kMost = std::size_t{256} << 20;
constexpr std::size_t kForget = std::size_t{64} << 20;  // bytes after which the pages looked through are given back

}  // namespace

Skeleton::Skeleton(const MappedFile& file) : file_(file) {
  const std::string_view text = file.bytes();
  std::string kept;
  const auto keep = [&](std::string_view piece) {
    if (piece.size() > kMost - kept.size())
      fail(file.path(), ": more than ", kMost >> 20, " MiB of it are not tensors");
    kept += piece;
  };
  std::size_t at = 0, forgotten = 0;
  while (at < text.size()) {
    if (at - forgotten > kForget) {
      file.forget();
      forgotten = at;
    }
    const std::size_t begin = std::min(text.find('"', at), text.size());
    keep(text.substr(at, begin - at));
    if (begin == text.size()) break;
    const std::size_t end = end_of_string(begin + 1);
    if (end - begin > kLong) {
      long_strings_.emplace(begin + 1, end);
      keep("[" + std::to_string(begin + 1) + "," + std::to_string(end) + "]");
    } else {
      keep(text.substr(begin, end + 1 - begin));
    }
    at = end + 1;
  }
  document_ = parse_json(kept, file.path());
  if (!document_.is_object()) fail(file.path(), " is not a JSON object");
}

// Where the string ends that begins there: at the first quote that no backslash escapes.
std::size_t Skeleton::end_of_string(std::size_t begin) const {
  const std::string_view text = file_.bytes();
  for (std::size_t end = text.find('"', begin); end != std::string_view::npos; end = text.find('"', end + 1)) {
    std::size_t escapes = end;
    while (escapes > begin && text[escapes - 1] == '\\') --escapes;
    if ((end - escapes) % 2 == 0) return end;
  }
  fail(file_.path(), " is cut off in the middle of a string");
}

std::optional<std::string_view> Skeleton::string(const Json& value) const {
  if (value.is_string()) return value.get_ref<const std::string&>();
  const bool pair = value.is_array() && value.size() == 2 && value[0].is_number_unsigned();
  if (!pair || !value[1].is_number_unsigned()) return std::nullopt;
  const auto found = long_strings_.find(value[0].get<std::size_t>());
  if (found == long_strings_.end() || value[1] != found->second) return std::nullopt;
  return file_.bytes().substr(found->first, found->second - found->first);
}

}  // namespace cutset::runner
