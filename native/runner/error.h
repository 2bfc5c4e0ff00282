// What the user can act on: one line on stderr, exit code 2, nothing written.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace cutset::runner {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Throws an Error that says the pieces one after another.
template <class... Pieces>
[[noreturn]] void fail(const Pieces&... pieces) {
  std::ostringstream text;
  (text << ... << pieces);
  throw Error(text.str());
}

}  // namespace cutset::runner
