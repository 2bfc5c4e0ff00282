// Files that are mapped, read-only.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace cutset::runner {

class MappedFile {
 public:
  // Error for a file that is empty or can't be read, and for what stands in a clone for one that wasn't fetched.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  std::string_view bytes() const { return {data_, size_}; }

  // Lets go of the pages that were read; they come from the file again when they are used again.
  void forget() const;

 private:
  std::string path_;
  const char* data_ = nullptr;
  std::size_t size_ = 0;
};

bool is_directory(const std::string& path);
bool is_file(const std::string& path);

}  // namespace cutset::runner
