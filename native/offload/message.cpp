#include "offload/message.h"

#include <cstring>

namespace cutset::offload {

namespace {

constexpr unsigned char kMagic[4] = {'C', 'U', 'T', 1};
constexpr std::size_t kPrelude = 8, kAlign = 64;
constexpr unsigned kInt16 = 2, kInt32 = 3, kUint32 = 7;                // codes of element types
constexpr unsigned char kBin8 = 0xc4, kFloat64 = 0xcb, kUint8 = 0xcc;  // and 16, 32, 64 bits after it

constexpr std::size_t aligned(std::size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

constexpr unsigned char array_of(unsigned count) { return static_cast<unsigned char>(0x90 | count); }

// MessagePack, each number in its shortest form.
class Writer {
 public:
  explicit Writer(unsigned char* at) : begin_(at), at_(at) {}

  void byte(unsigned value) { *at_++ = static_cast<unsigned char>(value); }
  void big_endian(std::uint64_t value, int bytes) {
    while (bytes-- > 0) byte(static_cast<unsigned>(value >> 8 * bytes & 0xff));
  }
  void count(std::uint64_t value) {
    if (value < 0x80) return byte(static_cast<unsigned>(value));
    const int size = value < 0x100 ? 0 : value < 0x10000 ? 1 : value < 0x100000000 ? 2 : 3;
    byte(kUint8 + static_cast<unsigned>(size));
    big_endian(value, 1 << size);
  }
  void text(const char* value) {
    const std::size_t size = std::strlen(value);
    byte(0xa0 | static_cast<unsigned>(size));
    std::memcpy(at_, value, size);
    at_ += size;
  }
  void number(double value) {
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    byte(kFloat64);
    big_endian(bits, 8);
  }
  std::size_t size() const { return static_cast<std::size_t>(at_ - begin_); }

 private:
  unsigned char* begin_;
  unsigned char* at_;
};

class Reader {
 public:
  Reader(const unsigned char* at, std::size_t size) : at_(at), end_(at + size) {}

  bool is(unsigned value) { return at_ < end_ && *at_++ == value; }
  bool big_endian(std::uint64_t& value, int bytes) {
    if (end_ - at_ < bytes) return false;
    value = 0;
    while (bytes-- > 0) value = value << 8 | *at_++;
    return true;
  }
  bool count(std::uint64_t& value) {
    if (at_ == end_) return false;
    const unsigned first = *at_++;
    value = first;
    if (first < 0x80) return true;
    return first >= kUint8 && first <= kUint8 + 3 && big_endian(value, 1 << (first - kUint8)) && value <= kMostCount;
  }
  bool text(const char* value) {
    const std::size_t size = std::strlen(value);
    if (!is(0xa0 | static_cast<unsigned>(size)) || left() < size || std::memcmp(at_, value, size) != 0) return false;
    at_ += size;
    return true;
  }
  bool number(double& value) {
    std::uint64_t bits = 0;
    if (!is(kFloat64) || !big_endian(bits, 8)) return false;
    std::memcpy(&value, &bits, sizeof value);
    return true;
  }
  std::size_t left() const { return static_cast<std::size_t>(end_ - at_); }

 private:
  const unsigned char* at_;
  const unsigned char* end_;
};

// The body of a message, and one array of two dimensions.
std::size_t finish(const Writer& body, const unsigned char* bytes, unsigned code, std::uint64_t rows,
                   std::uint64_t columns, char* out) {
  unsigned char head[kMostFront];
  Writer writer(head);
  writer.byte(array_of(2));
  writer.byte(kBin8);
  writer.byte(static_cast<unsigned>(body.size()));
  for (std::size_t i = 0; i < body.size(); ++i) writer.byte(bytes[i]);
  writer.byte(array_of(1));
  writer.byte(array_of(2));
  writer.byte(code);
  writer.byte(array_of(2));
  writer.count(rows);
  writer.count(columns);
  const std::size_t front = aligned(kPrelude + writer.size());
  std::memset(out, 0, front);
  std::memcpy(out, kMagic, sizeof kMagic);
  for (std::size_t i = 0; i < 4; ++i) out[4 + i] = static_cast<char>(writer.size() >> 8 * i & 0xff);
  std::memcpy(out + kPrelude, head, writer.size());
  return front;
}

// The head of a frame, copied: each word of it is read once.
class Head {
 public:
  Head(const char* frame, std::uint64_t length) {
    if (length < kAlign) return;
    copy(frame, 0, kPrelude);
    if (std::memcmp(copy_, kMagic, sizeof kMagic) != 0) return;
    std::size_t size = 0;
    for (std::size_t i = 0; i < 4; ++i) size |= std::size_t{copy_[4 + i]} << 8 * i;
    if (size > kMostFront - kPrelude || aligned(kPrelude + size) > length) return;
    copy(frame, kPrelude, kPrelude + size);
    size_ = size;
    front_ = aligned(kPrelude + size);
  }

  Reader reader() const { return {copy_ + kPrelude, size_}; }
  std::size_t front() const { return front_; }

 private:
  void copy(const char* frame, std::size_t from, std::size_t to) {
    for (std::size_t at = from; at < to; at += 8) {
      const std::uint64_t word = *reinterpret_cast<const volatile std::uint64_t*>(frame + at);
      std::memcpy(copy_ + at, &word, sizeof word);
    }
  }

  alignas(8) unsigned char copy_[kMostFront + 8] = {};
  std::size_t size_ = 0, front_ = 0;
};

// The end of a head: one array of `rows` and `columns`, of one of two codes. Gives where it begins, 0 if it isn't so.
template <class Message>
std::size_t finish(const Head& head, Reader& reader, std::uint64_t length, unsigned plain, Message& found,
                   std::uint64_t& rows, std::uint64_t& columns) {
  std::uint64_t code = 0;
  if (!reader.is(array_of(1)) || !reader.is(array_of(2)) || !reader.count(code) || !reader.is(array_of(2)) ||
      !reader.count(rows) || !reader.count(columns) || reader.left() != 0) {
    return 0;
  }
  constexpr std::uint64_t kMost = std::uint64_t{1} << 30;  // so that no product overflows
  if ((code != plain && code != kUint32) || rows == 0 || columns == 0 || rows > kMost || columns > kMost) return 0;
  found.masked = code == kUint32;
  return head.front() + found.bytes() == length ? head.front() : 0;
}

}  // namespace

std::size_t write_front(const Multiply& message, char* out) {
  unsigned char bytes[kMostFront];
  Writer body(bytes);
  body.byte(array_of(3));
  body.text("multiply");
  body.count(message.call);
  body.count(message.matrix);
  return finish(body, bytes, message.masked ? kUint32 : kInt16, message.rows, message.depth, out);
}

std::size_t write_front(const Answer& message, char* out) {
  unsigned char bytes[kMostFront];
  Writer body(bytes);
  body.byte(array_of(4));
  body.text("product");
  body.count(message.call);
  body.number(message.seconds);
  body.count(message.shared);
  return finish(body, bytes, message.masked ? kUint32 : kInt32, message.rows, message.outputs, out);
}

std::size_t read_front(const char* frame, std::uint64_t length, Multiply& found) {
  const Head head(frame, length);
  Reader reader = head.reader();
  std::uint64_t size = 0;
  if (!reader.is(array_of(2)) || !reader.is(kBin8) || !reader.big_endian(size, 1) || size > reader.left()) return 0;
  const std::size_t rest = reader.left() - size;
  if (!reader.is(array_of(3)) || !reader.text("multiply") || !reader.count(found.call) || !reader.count(found.matrix) ||
      reader.left() != rest) {
    return 0;
  }
  return finish(head, reader, length, kInt16, found, found.rows, found.depth);
}

std::size_t read_front(const char* frame, std::uint64_t length, Answer& found) {
  const Head head(frame, length);
  Reader reader = head.reader();
  std::uint64_t size = 0;
  if (!reader.is(array_of(2)) || !reader.is(kBin8) || !reader.big_endian(size, 1) || size > reader.left()) return 0;
  const std::size_t rest = reader.left() - size;
  if (!reader.is(array_of(4)) || !reader.text("product") || !reader.count(found.call) ||
      !reader.number(found.seconds) || !reader.count(found.shared) || reader.left() != rest) {
    return 0;
  }
  if (!(found.seconds >= 0)) return 0;
  return finish(head, reader, length, kInt32, found, found.rows, found.outputs);
}

}  // namespace cutset::offload
