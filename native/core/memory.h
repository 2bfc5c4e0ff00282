// Memory for packed weights and scratch: aligned to cache lines, on huge pages where it is large.
#pragma once

#include <cstddef>

namespace cutset {

// a * b, or std::length_error where that doesn't fit.
std::size_t checked_product(std::size_t a, std::size_t b);

// Uninitialised memory that belongs to one owner. Throws std::bad_alloc.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  std::size_t bytes() const { return bytes_; }
  template <class T>
  T* as() {
    return static_cast<T*>(data_);
  }
  template <class T>
  const T* as() const {
    return static_cast<const T*>(data_);
  }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Scratch that grows to the largest request and stays. What an earlier take() gave is lost by the next.
class Workspace {
 public:
  void* take(std::size_t bytes) {
    if (bytes > buffer_.bytes()) buffer_ = Buffer(bytes + bytes / 4);
    return buffer_.as<void>();
  }

 private:
  Buffer buffer_;
};

}  // namespace cutset
