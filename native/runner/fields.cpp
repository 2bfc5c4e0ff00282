#include "runner/fields.h"

#include <map>

#include "runner/error.h"

namespace cutset::runner {

namespace {

std::size_t most(const std::string& name) {
  static const std::map<std::string, std::size_t> limits = {
      {"vocab_size", 1 << 24},
      {"hidden_size", 1 << 20},
      {"num_hidden_layers", 4096},
      {"num_attention_heads", 1 << 14},
      {"num_key_value_heads", 1 << 14},
      {"head_dim", 1 << 14},
      {"intermediate_size", 1 << 22},
      {"moe_intermediate_size", 1 << 22},
      {"max_position_embeddings", 1 << 27},
      {"num_experts", 4096},
      {"num_local_experts", 4096},
      {"n_routed_experts", 4096},
      {"n_shared_experts", 256},
  };
  const auto found = limits.find(name);
  return found == limits.end() ? std::size_t{1} << 31 : found->second;
}

}  // namespace

void Fields::wrong(const char* name, const std::string& wanted) const {
  fail(source_, ": ", name, " must be ", wanted, ", not ", quoted(value(name)));
}

std::size_t Fields::integer(const char* name, std::optional<std::size_t> otherwise, std::size_t least) const {
  const Json& found = value(name);
  if (found.is_null()) {
    if (!otherwise) fail(source_, ": ", name, " is missing");
    return *otherwise;
  }
  const std::size_t limit = most(name);
  // The parser keeps whole numbers of 0 and more as unsigned, and those that don't fit in 64 bits as floats.
  const bool whole = found.is_number_unsigned();
  if (!whole || found.get<std::uint64_t>() < least || found.get<std::uint64_t>() > limit) {
    wrong(name, "an integer from " + std::to_string(least) + " to " + std::to_string(limit));
  }
  return found.get<std::size_t>();
}

double Fields::number(const char* name, std::optional<double> otherwise) const {
  const Json& found = value(name);
  if (found.is_null()) {
    if (!otherwise) fail(source_, ": ", name, " is missing");
    return *otherwise;
  }
  constexpr double kMost = 1e30;
  if (!found.is_number() || !(found.get<double>() > 0 && found.get<double>() <= kMost)) {
    wrong(name, "a positive number of at most 1e+30");
  }
  return found.get<double>();
}

bool Fields::flag(const char* name, bool otherwise) const {
  const Json& found = value(name);
  if (found.is_null()) return otherwise;
  if (!found.is_boolean()) wrong(name, "true or false");
  return found.get<bool>();
}

std::string Fields::word(const char* name, const char* otherwise) const {
  if (!names(name)) return otherwise;
  const Json& found = value(name);
  return found.is_string() ? found.get<std::string>() : "";
}

std::optional<Fields> Fields::table(const char* name) const {
  const Json& found = value(name);
  if (found.is_null()) return std::nullopt;
  if (!found.is_object()) wrong(name, "an object");
  return Fields(found, source_ + ": " + name);
}

bool truthy(const Json& value) {
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number()) return value.get<double>() != 0;
  if (value.is_string()) return !value.get_ref<const std::string&>().empty();
  return !value.is_null() && !value.empty();
}

}  // namespace cutset::runner
