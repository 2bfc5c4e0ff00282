#include "runner/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "runner/error.h"

namespace cutset::runner {

namespace {

constexpr std::string_view kPointer = "version https://git-lfs.github.com/spec/";  // how one begins

struct Descriptor {
  int number;
  ~Descriptor() {
    if (number >= 0) close(number);
  }
};

bool has_kind(const std::string& path, mode_t kind) {
  struct stat found{};
  return stat(path.c_str(), &found) == 0 && (found.st_mode & S_IFMT) == kind;
}

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  struct stat found{};
  if (file.number < 0 || fstat(file.number, &found) != 0) fail(path, " can't be read: ", std::strerror(errno));
  if (!S_ISREG(found.st_mode)) fail(path, " can't be read: it is not a file");
  if (found.st_size == 0) fail(path, " can't be read: it is empty");
  size_ = static_cast<std::size_t>(found.st_size);
  void* data = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.number, 0);
  if (data == MAP_FAILED) fail(path, " can't be mapped: ", std::strerror(errno));
  data_ = static_cast<const char*>(data);
  if (bytes().substr(0, kPointer.size()) == kPointer) {
    munmap(data, size_);  // no destructor runs
    fail(path, " is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`");
  }
}

MappedFile::~MappedFile() { munmap(const_cast<char*>(data_), size_); }

void MappedFile::forget() const { madvise(const_cast<char*>(data_), size_, MADV_DONTNEED); }

bool is_directory(const std::string& path) { return has_kind(path, S_IFDIR); }

bool is_file(const std::string& path) { return has_kind(path, S_IFREG); }

}  // namespace cutset::runner
