#include "runner/json.h"

#include <set>
#include <vector>

#include "runner/error.h"
#include "runner/file.h"

namespace cutset::runner {

namespace {

constexpr std::size_t kMostValues = std::size_t{1} << 24;
constexpr std::size_t kMostBytes = std::size_t{64} << 20;

// The library's own messages quote the input at length; what matters is where it stopped.
std::string reason(const std::string& message) {
  const std::string shown = message.substr(message.find("] ") + 2);
  return shown.substr(0, shown.find(';')).substr(0, 120);
}

}  // namespace

Json parse_json(std::string_view text, const std::string& source, Duplicates duplicates) {
  std::size_t values = 0;
  std::vector<std::set<std::string>> names;  // of the objects that are open
  const auto watch = [&](int, Json::parse_event_t event, Json& parsed) {
    if (++values > kMostValues) fail(source, " holds more than ", kMostValues, " values");
    if (event != Json::parse_event_t::key) {
      if (event == Json::parse_event_t::object_start) names.emplace_back();
      if (event == Json::parse_event_t::object_end) names.pop_back();
      return true;
    }
    const std::string& name = parsed.get_ref<const std::string&>();
    if (duplicates == Duplicates::kRefused && !names.back().insert(name).second) {
      fail(source, ": a name stands there twice");
    }
    return name != "preview";
  };
  try {
    return Json::parse(text.begin(), text.end(), watch);
  } catch (const Json::exception& error) {
    fail(source, " is not valid JSON, or cut off (", reason(error.what()), ")");
  }
}

Json read_json(const std::string& path) {
  if (!is_file(path)) fail(path, " is missing");
  const MappedFile file(path);
  if (file.bytes().size() > kMostBytes)
    fail(path, " is larger than ", kMostBytes >> 20, " MiB: that is no configuration");
  Json value = parse_json(file.bytes(), path);
  if (!value.is_object()) fail(path, " must hold a JSON object, not ", quoted(value));
  return value;
}

std::string quoted(const Json& value) {
  if (value.is_structured()) return value.is_array() ? "a list" : "an object";
  const std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  return text.size() <= 80 ? text : text.substr(0, 77) + "...";
}

const Json& member(const Json& object, const char* name) {
  static const Json null;
  if (!object.is_object()) return null;
  const auto found = object.find(name);
  return found == object.end() ? null : *found;
}

}  // namespace cutset::runner
