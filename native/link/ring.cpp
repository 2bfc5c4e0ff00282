#include "link/ring.h"

#include <algorithm>

namespace cutset::link {

namespace {

constexpr std::uint64_t whole_lines(std::uint64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

RecordWords* record_at(RingWords* words, std::uint64_t position) {
  return reinterpret_cast<RecordWords*>(reinterpret_cast<char*>(words) + sizeof(RingWords) + position);
}

}  // namespace

Sender::Sender(RingWords* words, std::uint64_t capacity, std::uint64_t epoch, Bell* doorbell)
    : words_(words), capacity_(capacity), epoch_(epoch), doorbell_(doorbell) {}

bool Sender::claim(std::uint64_t length) {
  if (length > largest()) throw std::invalid_argument("a record is larger than half of the ring");
  const std::uint64_t tail = words_->tail.load(std::memory_order_seq_cst);
  if (tail < tail_ || tail > head_ || tail % kLine) throw Broken("the receiver's place makes no sense");
  tail_ = tail;
  const std::uint64_t need = kLine + whole_lines(length), used = head_ - tail;
  std::uint64_t skip = 0;
  const bool rewind = used == 0 && position_ >= std::max(kRewind, need);
  if (position_ + need > capacity_ || rewind) skip = capacity_ - position_;
  if (used + skip + need > capacity_) return false;
  length_ = length;
  skip_ = skip;
  claimed_ = true;
  return true;
}

bool Sender::wait_for_room(std::uint64_t length, double seconds, Patience patience) {
  bool room = false;
  Waiting(words_->space, seconds, patience).until([&] { return (room = claim(length)) || receiver_closed(); });
  return room;
}

void Sender::write(std::uint64_t at, Kind kind, std::uint64_t length, std::uint64_t total) {
  RecordWords* record = record_at(words_, at);
  record->sequence.store(sequence_++, std::memory_order_relaxed);
  record->epoch.store(epoch_, std::memory_order_relaxed);
  record->kind.store(kind, std::memory_order_relaxed);
  record->length.store(static_cast<std::uint32_t>(length), std::memory_order_relaxed);
  record->total.store(total, std::memory_order_relaxed);
}

void Sender::commit(Kind kind, std::uint64_t total) {
  if (!claimed_) throw std::logic_error("nothing is claimed");
  claimed_ = false;
  if (skip_) {
    write(position_, kSkip, skip_ - kLine, 0);
    position_ = 0;
  }
  write(position_, kind, length_, total);
  const std::uint64_t size = kLine + whole_lines(length_);
  position_ = (position_ + size) % capacity_;
  head_ += skip_ + size;
  skip_ = 0;
  words_->head.store(head_, std::memory_order_seq_cst);
  ring(*doorbell_);
}

void Sender::close() {
  words_->sender_closed.store(1, std::memory_order_seq_cst);
  ring(*doorbell_);
}

Receiver::Receiver(RingWords* words, std::uint64_t capacity, std::uint64_t epoch, Bell* doorbell)
    : words_(words), capacity_(capacity), epoch_(epoch), doorbell_(doorbell) {}

Record Receiver::poll() {
  Record found;
  for (;;) {
    const std::uint64_t before = read_.load(std::memory_order_relaxed);
    std::uint64_t head = words_->head.load(std::memory_order_seq_cst);
    if (head == before) {
      if (words_->sender_closed.load(std::memory_order_seq_cst) == 0) return found;
      head = words_->head.load(std::memory_order_seq_cst);  // it sent and then closed
      if (head == before) {
        found.kind = kClosed;
        return found;
      }
    }
    const std::uint64_t ready = head - before;
    if (head < before || head - released_.load() > capacity_ || ready % kLine)
      throw Broken("the sender's place makes no sense");
    const RecordWords* record = record_at(words_, position_);
    const std::uint64_t sequence = record->sequence.load(std::memory_order_relaxed);
    const std::uint64_t epoch = record->epoch.load(std::memory_order_relaxed);
    const std::uint32_t kind = record->kind.load(std::memory_order_relaxed);
    const std::uint64_t length = record->length.load(std::memory_order_relaxed);
    const std::uint64_t total = record->total.load(std::memory_order_relaxed);
    const std::uint64_t size = kLine + whole_lines(length);
    if (sequence != sequence_ || epoch != epoch_) throw Broken("a record isn't the one that is next");
    if (kind < kWhole || kind > kSkip || size > ready || position_ + size > capacity_) {
      throw Broken("a record goes beyond what was sent");
    }
    const std::uint64_t at = position_, end = before + size;
    ++sequence_;
    read_.store(end);
    position_ = (position_ + size) % capacity_;
    if (kind == kSkip) {
      if (position_ != 0) throw Broken("a gap doesn't end where the ring ends");
      if (released_.load() == before) give_back(end);
      continue;
    }
    found.kind = static_cast<Kind>(kind);
    found.offset = sizeof(RingWords) + at + kLine;
    found.length = length;
    found.total = total;
    found.end = end;
    return found;
  }
}

bool Receiver::wait(Record& record, double seconds, Patience patience) {
  return Waiting(*doorbell_, seconds, patience).until([&] {
    record = poll();
    return record.kind != kNone;
  });
}

void Receiver::release(std::uint64_t end) {
  if (end <= released_.load() || end > read_.load()) throw std::invalid_argument("no such record is held");
  give_back(end);
}

void Receiver::give_back(std::uint64_t end) {
  released_.store(end);
  words_->tail.store(end, std::memory_order_seq_cst);
  ring(words_->space);
}

void Receiver::close() {
  words_->receiver_closed.store(1, std::memory_order_seq_cst);
  ring(words_->space);
}

void Poller::add(std::uint64_t token, Receiver* receiver) { entries_.push_back({token, receiver, false, false}); }

void Poller::remove(std::uint64_t token) {
  const auto gone = [&](const Entry& entry) { return entry.token == token; };
  entries_.erase(std::remove_if(entries_.begin(), entries_.end(), gone), entries_.end());
}

void Poller::pause(std::uint64_t token, bool paused) {
  for (Entry& entry : entries_) {
    if (entry.token == token) entry.paused = paused;
  }
}

bool Poller::joined(Record& record) {
  const std::uint32_t joins = joins_->load(std::memory_order_seq_cst);
  if (joins == joined_) return false;
  joined_ = joins;
  record = Record();
  record.kind = kJoined;
  return true;
}

bool Poller::poll(std::uint64_t& token, Record& record) {
  // Records and newcomers take turns, so that neither keeps the other waiting for ever.
  if (newcomers_first_ && joined(record)) {
    newcomers_first_ = false;
    return true;
  }
  const std::size_t count = entries_.size();
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t place = (next_ + i) % count;
    Entry& entry = entries_[place];
    if (entry.over || entry.paused) continue;
    try {
      record = entry.receiver->poll();
    } catch (const Broken&) {
      record = Record();
      record.kind = kBroken;
    }
    if (record.kind == kNone) continue;
    entry.over = record.kind == kClosed || record.kind == kBroken;
    token = entry.token;
    next_ = place + 1;
    newcomers_first_ = true;
    return true;
  }
  newcomers_first_ = true;
  return joined(record);
}

bool Poller::wait(std::uint64_t& token, Record& record, double seconds, Patience patience) {
  return Waiting(*bell_, seconds, patience).until([&] { return poll(token, record); });
}

}  // namespace cutset::link
