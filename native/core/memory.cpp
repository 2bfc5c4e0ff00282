#include "core/memory.h"

#include <cstdint>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace cutset {

namespace {

constexpr std::size_t kLine = 64;

#if defined(__linux__)
constexpr std::size_t kHuge = std::size_t{2} << 20;

// Whole huge pages: with pages of 4 KiB, reading weights misses the TLB all the time.
void* map_huge(std::size_t bytes) {
  const std::size_t reserved = bytes + kHuge;
  void* start = mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) throw std::bad_alloc();
  const std::size_t before = (kHuge - reinterpret_cast<std::uintptr_t>(start) % kHuge) % kHuge;
  char* data = static_cast<char*>(start) + before;
  if (before) munmap(start, before);
  munmap(data + bytes, reserved - before - bytes);
  madvise(data, bytes, MADV_HUGEPAGE);  // a wish: without it the memory is slower, not wrong
  return data;
}
#endif

// How many bytes are asked of the system: whole pages or whole lines.
std::size_t rounded(std::size_t bytes) {
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
#if defined(__linux__)
  if (bytes >= kHuge) return (bytes + 4095) / 4096 * 4096;
#endif
  return (bytes + kLine - 1) / kLine * kLine;
}

}  // namespace

std::size_t checked_product(std::size_t a, std::size_t b) {
  std::size_t product;
  if (__builtin_mul_overflow(a, b, &product)) throw std::length_error("a size doesn't fit in memory");
  return product;
}

Buffer::Buffer(std::size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  const std::size_t whole = rounded(bytes);
#if defined(__linux__)
  if (bytes >= kHuge) {
    data_ = map_huge(whole);
    return;
  }
#endif
  data_ = std::aligned_alloc(kLine, whole);
  if (!data_) throw std::bad_alloc();
}

Buffer::~Buffer() {
#if defined(__linux__)
  if (bytes_ >= kHuge) {
    munmap(data_, rounded(bytes_));
    return;
  }
#endif
  std::free(data_);
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace cutset
