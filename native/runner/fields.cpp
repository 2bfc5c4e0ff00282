#include "runner/fields.h"

#include <algorithm>

#include "runner/error.h"

namespace cutset::runner {

void Fields::wrong(const char* name, const std::string& wanted) const {
  fail(source_, ": ", name, " must be ", wanted, ", not ", quoted(value(name)));
}

void Fields::only(std::initializer_list<const char*> known) const {
  for (const char* name : known) {
    if (!values_->contains(name)) fail(source_, ": ", name, " is missing");
  }
  for (const auto& item : values_->items()) {
    if (std::find(known.begin(), known.end(), item.key()) == known.end()) {
      fail(source_, ": ", item.key().substr(0, 60), " is not known; another version of this program wrote it");
    }
  }
}

std::size_t Fields::integer(const char* name, std::size_t most, std::size_t least) const {
  if (!is_whole(value(name), least, most)) {
    if (!has(name)) fail(source_, ": ", name, " is missing");
    wrong(name, "an integer from " + std::to_string(least) + " to " + std::to_string(most));
  }
  return value(name).get<std::size_t>();
}

double Fields::number(const char* name, double least) const {
  const Json& found = value(name);
  if (!found.is_number() || !(found.get<double>() > 0 && found.get<double>() <= kMostNumber)) {
    wrong(name, "a positive number of at most 1e+30");
  }
  if (found.get<double>() < least) fail(source_, " gives frequencies that aren't finite");
  return found.get<double>();
}

float Fields::factor(const char* name, bool zero) const {
  const Json& found = value(name);
  const double number = found.is_number() ? found.get<double>() : -1;
  if (!(number >= kLeastNumber && number <= kMostNumber) && !(zero && number == 0)) {
    wrong(name, std::string("a number from 1e-30 to 1e+30") + (zero ? ", or 0" : ""));
  }
  return static_cast<float>(number);
}

bool Fields::flag(const char* name) const {
  if (!value(name).is_boolean()) wrong(name, "true or false");
  return value(name).get<bool>();
}

Fields Fields::table(const char* name) const {
  const Json& found = value(name);
  if (found.is_null()) fail(source_, ": ", name, " is missing");
  if (!found.is_object()) wrong(name, "an object");
  return Fields(found, source_ + ": " + name);
}

const Json& Fields::list(const char* name, std::size_t size) const {
  const Json& found = value(name);
  if (!found.is_array() || found.size() != size) wrong(name, "a list of " + std::to_string(size));
  return found;
}

bool is_whole(const Json& value, std::uint64_t least, std::uint64_t most) {
  // The parser keeps whole numbers of 0 and more as unsigned but for -0, and those that don't fit in 64 bits as floats.
  if (value.is_number_unsigned()) return value.get<std::uint64_t>() >= least && value.get<std::uint64_t>() <= most;
  return value.is_number_integer() && value.get<std::int64_t>() == 0 && least == 0;
}

}  // namespace cutset::runner
