#include "runner/npy.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "core/memory.h"
#include "runner/error.h"
#include "runner/file.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the files that the runner reads and writes are little-endian"
#endif

namespace cutset::runner {

namespace {

constexpr std::size_t kLine = 64;  // data starts at a multiple of it

std::string header(const Shape& shape) {
  std::string text = "{'descr': '<f4', 'fortran_order': False, 'shape': " + runner::text(shape) + ", }";
  text.append(kLine - 1 - (10 + text.size()) % kLine, ' ');
  text += '\n';
  const std::size_t size = text.size();
  return std::string("\x93NUMPY\x01\x00", 8) + static_cast<char>(size & 0xff) + static_cast<char>(size >> 8) + text;
}

// Something that is there already and no file, such as /dev/null: it is written to in place.
bool is_special(const std::string& path) {
  struct stat found{};
  return stat(path.c_str(), &found) == 0 && !S_ISREG(found.st_mode);
}

bool write_all(const std::string& path, const std::string& head, const float* values, std::size_t bytes) {
  FILE* file = std::fopen(path.c_str(), "wb");
  if (!file) return false;
  const bool written =
      std::fwrite(head.data(), 1, head.size(), file) == head.size() && std::fwrite(values, 1, bytes, file) == bytes;
  const int reason = errno;
  const bool closed = std::fclose(file) == 0;
  if (!written) errno = reason;
  return written && closed;
}

}  // namespace

void check_target(const std::string& path) {
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  const std::string name = folder.empty() ? "." : folder.string();
  if (is_directory(path) || std::filesystem::path(path).filename().empty()) {
    fail(path, " can't be written: it is a directory");
  }
  if (!is_special(path) && access(name.c_str(), W_OK) != 0) fail(path, " can't be written: ", std::strerror(errno));
}

void write_npy(const std::string& path, const Shape& shape, const float* values) {
  std::size_t bytes = sizeof(float);
  for (const std::size_t size : shape) bytes = checked_product(bytes, size);
  const std::filesystem::path target(path);
  const bool special = is_special(path);
  const std::string partial =
      special ? path
              : (target.parent_path() / ("." + target.filename().string() + "." + std::to_string(getpid()))).string();
  if (write_all(partial, header(shape), values, bytes) &&
      (special || std::rename(partial.c_str(), path.c_str()) == 0)) {
    return;
  }
  const int reason = errno;
  if (!special) std::remove(partial.c_str());
  fail(path, " can't be written: ", std::strerror(reason));
}

}  // namespace cutset::runner
