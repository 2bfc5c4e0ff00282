#include "core/memory.h"

#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <stdexcept>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace cutset {

namespace {

constexpr std::size_t kLine = 64;
constexpr std::size_t kHuge = std::size_t{2} << 20;
constexpr std::size_t kSlab = std::size_t{32} << 20;  // address space: pages that nobody touches cost nothing

std::size_t rounded(std::size_t bytes, std::size_t step) {
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
  return (bytes + step - 1) / step * step;
}

}  // namespace

std::size_t checked_product(std::size_t a, std::size_t b) {
  std::size_t product;
  if (__builtin_mul_overflow(a, b, &product)) throw std::length_error("a size doesn't fit in memory");
  return product;
}

struct Buffer::Slab {
  char* data = nullptr;
  std::size_t bytes, used = 0;

  explicit Slab(std::size_t wanted) : bytes(rounded(wanted, wanted < kHuge ? kLine : kHuge)) {
#if defined(__linux__)
    if (bytes >= kHuge) {
      map_huge();
      return;
    }
#endif
    data = static_cast<char*>(std::aligned_alloc(kLine, bytes));
    if (!data) throw std::bad_alloc();
  }

  ~Slab() {
#if defined(__linux__)
    if (bytes >= kHuge) {
      munmap(data, bytes);
      return;
    }
#endif
    std::free(data);
  }

  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;

#if defined(__linux__)
  void map_huge() {
    const std::size_t reserved = bytes + kHuge;
    void* start = mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) throw std::bad_alloc();
    const std::size_t before = (kHuge - reinterpret_cast<std::uintptr_t>(start) % kHuge) % kHuge;
    data = static_cast<char*>(start) + before;
    if (before) munmap(start, before);
    if (before < kHuge) munmap(data + bytes, kHuge - before);
    madvise(data, bytes, MADV_HUGEPAGE);  // a wish: without it the memory is slower, not wrong
  }
#endif
};

Buffer::Buffer(std::size_t bytes)
    : slab_(std::make_shared<Slab>(bytes ? bytes : kLine)), data_(slab_->data), bytes_(bytes) {}

Buffer Buffer::shared(std::size_t bytes) {
  static std::mutex guard;
  static std::weak_ptr<Slab> current;
  const std::size_t whole = rounded(bytes, kLine);
  Buffer buffer;
  std::lock_guard<std::mutex> lock(guard);
  buffer.slab_ = current.lock();
  if (!buffer.slab_ || buffer.slab_->bytes - buffer.slab_->used < whole) {
    buffer.slab_ = std::make_shared<Slab>(whole < kSlab / 2 ? kSlab : whole);
    if (buffer.slab_->bytes > whole) current = buffer.slab_;
  }
  buffer.data_ = buffer.slab_->data + buffer.slab_->used;
  buffer.bytes_ = bytes;
  buffer.slab_->used += whole;
  return buffer;
}

}  // namespace cutset
