// JSON from strangers, within limits.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace cutset::runner {

using Json = nlohmann::json;

enum class Duplicates { kLastWins, kRefused };

// The document in `text`; `source` names it in errors. Members named "preview" are left out. Error for what is not
// valid JSON, or has more than 2^24 values (a value takes many times its characters).
Json parse_json(std::string_view text, const std::string& source, Duplicates duplicates = Duplicates::kLastWins);

// The JSON object in a file of at most 64 MiB, such as a config.json.
Json read_json(const std::string& path);

// A value as an error quotes it: short, on one line.
std::string quoted(const Json& value);

// The member of that name, or null.
const Json& member(const Json& object, const char* name);

}  // namespace cutset::runner
