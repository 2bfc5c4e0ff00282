// Typed access to the fields of a JSON object; every error names the field and the file.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "runner/json.h"

namespace cutset::runner {

// Sizes beyond the limits are no model but an attack or a slip: they are refused before anything is allocated. The
// object must outlive it.
class Fields {
 public:
  Fields(const Json& values, std::string source) : values_(&values), source_(std::move(source)) {}

  const std::string& source() const { return source_; }
  bool has(const char* name) const { return !value(name).is_null(); }
  const Json& value(const char* name) const { return member(*values_, name); }

  // Error unless exactly these fields are there.
  void only(std::initializer_list<const char*> known) const;

  std::size_t integer(const char* name, std::size_t most, std::size_t least = 1) const;
  double number(const char* name, double least = 0) const;  // positive, at most kMostNumber
  // From kLeastNumber to kMostNumber, or 0 where that is allowed: not a zero or infinity in float32.
  float factor(const char* name, bool zero = false) const;
  bool flag(const char* name) const;
  Fields table(const char* name) const;
  const Json& list(const char* name, std::size_t size) const;

  [[noreturn]] void wrong(const char* name, const std::string& wanted) const;

 private:
  const Json* values_;
  std::string source_;
};

constexpr double kMostNumber = 1e30;
constexpr double kLeastNumber = 1e-30;

bool is_whole(const Json& value, std::uint64_t least, std::uint64_t most);

}  // namespace cutset::runner
