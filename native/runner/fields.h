// Typed access to the fields of a configuration; every error names the field and the file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "runner/json.h"

namespace cutset::runner {

// The C++ side of cutset.models.files.fields.Fields, with the same limits: larger sizes are no model but an attack or a
// slip, and are refused before anything is allocated. The object must outlive it.
class Fields {
 public:
  Fields(const Json& values, std::string source) : values_(&values), source_(std::move(source)) {}

  const std::string& source() const { return source_; }
  bool has(const char* name) const { return !member(*values_, name).is_null(); }
  bool names(const char* name) const { return values_->contains(name); }  // even if it is null
  const Json& value(const char* name) const { return member(*values_, name); }

  std::size_t integer(const char* name, std::optional<std::size_t> otherwise = {}, std::size_t least = 1) const;
  double number(const char* name, std::optional<double> otherwise = {}) const;  // positive
  bool flag(const char* name, bool otherwise = false) const;
  std::string word(const char* name, const char* otherwise) const;  // "" for what isn't a string
  std::optional<Fields> table(const char* name) const;

  [[noreturn]] void wrong(const char* name, const std::string& wanted) const;

 private:
  const Json* values_;
  std::string source_;
};

// As Python sees it: false for null, false, zero and what is empty.
bool truthy(const Json& value);

}  // namespace cutset::runner
