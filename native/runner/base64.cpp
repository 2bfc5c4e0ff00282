#include "runner/base64.h"

#include <array>
#include <atomic>
#include <cstdint>

#include "core/split.h"

namespace cutset::runner {

namespace {

constexpr std::uint32_t kBad = 0x80000000u;
constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

// The value of each character at the four places of a group, already shifted; kBad for what is no such character.
struct Table {
  std::array<std::uint32_t, 256> at[4];

  Table() {
    for (auto& place : at) place.fill(kBad);
    for (std::size_t i = 0; i < kAlphabet.size(); ++i) {
      for (int place = 0; place < 4; ++place) {
        at[place][static_cast<unsigned char>(kAlphabet[i])] = static_cast<std::uint32_t>(i) << (18 - 6 * place);
      }
    }
  }

  std::uint32_t group(const char* text) const {
    const auto* c = reinterpret_cast<const unsigned char*>(text);
    return at[0][c[0]] | at[1][c[1]] | at[2][c[2]] | at[3][c[3]];
  }
};

const Table& table() {
  static const Table made;
  return made;
}

// Whole groups; false if one is bad.
bool decode_groups(const char* text, std::size_t groups, unsigned char* out) {
  const Table& tables = table();
  std::uint32_t seen = 0;
  for (std::size_t i = 0; i < groups; ++i) {
    const std::uint32_t group = tables.group(text + 4 * i);
    seen |= group;
    out[3 * i] = static_cast<unsigned char>(group >> 16);
    out[3 * i + 1] = static_cast<unsigned char>(group >> 8);
    out[3 * i + 2] = static_cast<unsigned char>(group);
  }
  return !(seen & kBad);
}

}  // namespace

bool decode_base64(ThreadPool& pool, std::string_view text, std::size_t bytes, unsigned char* out) {
  if (text.size() != base64_size(bytes)) return false;
  constexpr std::size_t kGroups = std::size_t{1} << 16;  // of one task
  const std::size_t whole = bytes / 3;
  std::atomic<bool> good{true};
  run_ranges(pool, whole, kGroups, [&](std::size_t first, std::size_t end) {
    if (!decode_groups(text.data() + 4 * first, end - first, out + 3 * first)) good = false;
  });
  const std::size_t rest = bytes % 3;
  if (rest == 0) return good;
  const char* last = text.data() + 4 * whole;
  const char group[4] = {last[0], last[1], rest == 2 ? last[2] : 'A', 'A'};
  unsigned char tail[3];
  const bool padded = last[3] == '=' && (rest == 2 || last[2] == '=');
  if (!padded || !decode_groups(group, 1, tail)) return false;
  for (std::size_t i = 0; i < rest; ++i) out[3 * whole + i] = tail[i];
  return good;
}

}  // namespace cutset::runner
