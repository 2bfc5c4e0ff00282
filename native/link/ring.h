// A ring of records in memory that two processes share: one sends, one receives. docs/protocol.md has its layout.
//
// The other side may be hostile: a word of the shared memory is read once, checked, and only its copy is used. Where
// this side stands is kept in private memory.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace cutset::link {

constexpr std::uint64_t kLine = 64;          // bytes; records begin at multiples of it
constexpr std::uint64_t kRewind = 1u << 20;  // an empty ring begins anew beyond this, to stay in the cache
constexpr double kSlice = 0.1;               // seconds; no wait is longer, so that Python sees signals

static_assert(std::atomic<std::uint64_t>::is_always_lock_free && std::atomic<std::uint32_t>::is_always_lock_free,
              "words between processes must be lock-free");

// What a party sleeps on. Whoever has news for it rings.
struct alignas(64) Bell {
  std::atomic<std::uint32_t> count;
  std::atomic<std::uint32_t> sleeping;
};

// The first 256 bytes of a ring; the data follow.
struct RingWords {
  alignas(64) std::atomic<std::uint64_t> head;  // bytes sent since the beginning; the sender's
  std::atomic<std::uint32_t> sender_closed;
  alignas(64) std::atomic<std::uint64_t> tail;  // bytes that may be overwritten; the receiver's
  std::atomic<std::uint32_t> receiver_closed;
  alignas(64) Bell data;   // the receiver sleeps here, where it has no other bell
  alignas(64) Bell space;  // the sender sleeps here
};
static_assert(sizeof(RingWords) == 256, "the layout is part of the protocol");

// The first 32 bytes of a record; what it carries begins at 64.
struct RecordWords {
  std::atomic<std::uint64_t> sequence;  // 0, 1, 2, …
  std::atomic<std::uint64_t> epoch;     // the listener's
  std::atomic<std::uint32_t> kind;
  std::atomic<std::uint32_t> length;  // bytes that it carries
  std::atomic<std::uint64_t> total;   // bytes of the whole frame
};
static_assert(sizeof(RecordWords) == 32, "the layout is part of the protocol");

enum Kind : std::uint32_t {
  kNone = 0,
  kWhole = 1,   // a frame
  kFirst = 2,   // the beginning of a frame that is sent in pieces
  kNext = 3,    // more of it
  kSkip = 4,    // nothing; the next record is at the beginning of the ring
  kClosed = 5,  // these three are never in a ring: the sender closed,
  kBroken = 6,  // the ring's words make no sense,
  kJoined = 7,  // a client came
};

struct Broken : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Wakes whoever sleeps at the bell. What it shall find must be stored before, with memory_order_seq_cst.
void ring(Bell& bell);

// How a party waits: `spin` seconds awake, then asleep. `naps`: without futexes, which an enclave doesn't share.
// `yields`: awake only until others need its core.
struct Patience {
  double spin;
  bool naps;
  bool yields = false;
};

// True once ready() is; false after `seconds`, kSlice at most, or a signal.
class Waiting {
 public:
  Waiting(Bell& bell, double seconds, Patience patience);
  // Pauses, yields or sleeps a little; false when the time is over. After `true` look again.
  template <class Ready>
  bool until(const Ready& ready) {
    while (!over_) {
      if (ready()) return true;
      if (spinning()) continue;
      park();
      const bool found = ready();
      if (!found) sleep();
      unpark();
      if (found) return true;
    }
    return ready();
  }

 private:
  bool spinning();
  void park();
  void sleep();
  void unpark();

  Bell& bell_;
  double deadline_, awake_until_ = 0, yield_from_ = 0, looked_ = 0;
  Patience patience_;
  int turns_ = 0;
  std::uint32_t seen_ = 0;
  bool over_ = false;
};

class Sender {
 public:
  // `words` has `capacity` bytes of data behind it, a multiple of 64. `doorbell`: where the receiver sleeps.
  Sender(RingWords* words, std::uint64_t capacity, std::uint64_t epoch, Bell* doorbell);

  std::uint64_t largest() const { return capacity_ / 2 - kLine; }
  bool receiver_closed() const { return words_->receiver_closed.load(std::memory_order_acquire) != 0; }
  // Looks for room for a record of `length` bytes, largest() at most. Until commit() nothing has happened.
  bool claim(std::uint64_t length);
  bool wait_for_room(std::uint64_t length, double seconds, Patience patience);
  // Where the claimed record's bytes go, counted from the ring's words.
  std::uint64_t offset() const { return sizeof(RingWords) + (skip_ ? 0 : position_) + kLine; }
  char* data() const { return reinterpret_cast<char*>(words_) + offset(); }
  void commit(Kind kind, std::uint64_t total);
  void close();

 private:
  void write(std::uint64_t at, Kind kind, std::uint64_t length, std::uint64_t total);

  RingWords* words_;
  std::uint64_t capacity_, epoch_;
  Bell* doorbell_;
  std::uint64_t head_ = 0, position_ = 0, sequence_ = 0, tail_ = 0;  // `tail_`: as it was last seen
  std::uint64_t length_ = 0, skip_ = 0;                              // of what is claimed
  bool claimed_ = false;
};

struct Record {
  Kind kind = kNone;
  std::uint64_t offset = 0;  // of what it carries, from the ring's words
  std::uint64_t length = 0;
  std::uint64_t total = 0;
  std::uint64_t end = 0;  // what release() wants
};

class Receiver {
 public:
  Receiver(RingWords* words, std::uint64_t capacity, std::uint64_t epoch, Bell* doorbell);

  // The next record; kNone where there is none. Throws Broken.
  Record poll();
  bool wait(Record& record, double seconds, Patience patience);
  // What a record carries.
  const char* data(const Record& record) const { return reinterpret_cast<const char*>(words_) + record.offset; }
  // Records up to this end may be overwritten.
  void release(std::uint64_t end);
  void close();

 private:
  void give_back(std::uint64_t end);

  RingWords* words_;
  std::uint64_t capacity_, epoch_;
  Bell* doorbell_;
  std::uint64_t position_ = 0, sequence_ = 0;
  std::atomic<std::uint64_t> read_{0}, released_{0};  // whoever computes may release while another thread receives
};

// Many receivers with one bell, served in turns.
class Poller {
 public:
  // `joins` rises when a client comes.
  Poller(Bell* bell, std::atomic<std::uint32_t>* joins) : bell_(bell), joins_(joins) {}

  void add(std::uint64_t token, Receiver* receiver);
  void remove(std::uint64_t token);
  // A client that is paused isn't looked at: what it sends stays in its ring.
  void pause(std::uint64_t token, bool paused);
  // The next record and whose it is.
  bool poll(std::uint64_t& token, Record& record);
  bool wait(std::uint64_t& token, Record& record, double seconds, Patience patience);

 private:
  struct Entry {
    std::uint64_t token;
    Receiver* receiver;
    bool over;  // closed or broken: said once
    bool paused;
  };
  bool joined(Record& record);

  Bell* bell_;
  std::atomic<std::uint32_t>* joins_;
  bool newcomers_first_ = true;
  std::uint32_t joined_ = 0;
  std::vector<Entry> entries_;
  std::size_t next_ = 0;
};

}  // namespace cutset::link
