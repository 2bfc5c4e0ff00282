// The products of a decoder, multiplied by an accelerator behind a ring: the fast path of
// cutset.offload.client.linears, which is its slow twin.
//
// A step is answered product by product as long as all goes as usual. What doesn't ends the run with a Stop that says
// how far the product got; the twin finishes it, with the same bytes, and may go on here.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "core/field.h"
#include "core/memory.h"
#include "core/pool.h"
#include "core/spec.h"
#include "core/step.h"
#include "link/ends.h"
#include "offload/laps.h"
#include "offload/message.h"

namespace cutset::offload {

enum class Stop : int {
  kDone = 0,        // the step is
  kBefore = 1,      // nothing was sent
  kNoPad = 2,       // nothing was sent, since there aren't enough rows of pads
  kUnanswered = 3,  // sent, and no answer came in time, or a signal did
  kOdd = 4,         // sent; what came isn't the usual answer
  kBroken = 5,      // sent, and then the ring was broken
  kLied = 6,        // the answer is wrong
};

// One matrix as the client knows it. What it points to must outlive the linears.
struct ClientMatrix {
  Site site = Site::kQkv;
  int layer = -1, expert = -1;
  std::uint64_t number = 0;
  std::size_t outputs = 0, depth = 0;
  int bits = 0;                              // of the activations
  const float* scales = nullptr;             // (outputs,)
  const std::int32_t* bounds = nullptr;      // (outputs,), or null
  const std::uint32_t* secrets = nullptr;    // (checks, outputs), or null
  const std::uint32_t* projected = nullptr;  // (checks, depth)
  std::size_t checks = 0;
};

// Rows of pads that are handed out here, each once, from the first on. `name` is for whoever lent them.
struct PadRows {
  std::uint64_t name = 0;
  const std::uint32_t* r = nullptr;        // (rows, depth)
  const std::uint32_t* product = nullptr;  // (rows, outputs)
  std::size_t first = 0, rows = 0;         // that are left, or in use; pointers are to the first of all
};

// What a run begins with.
struct RunRequest {
  Step* step = nullptr;
  std::uint64_t calls = 0;         // the number of the session's last call
  std::size_t most_rows = 0;       // of a call, that the accelerator takes
  std::size_t row = 0;             // of the product that the step waits for: those before it are answered
  double patience = link::kSlice;  // seconds for which an answer is waited for here
  bool count_cpu = false;          // of the calling thread too
};

// A call that was sent and not finished.
struct SentCall {
  std::vector<std::int16_t> q;          // (rows, depth); empty where it wasn't kept
  std::vector<float> scales;            // of the rows
  std::vector<std::uint32_t> expected;  // of the checks, (rows, checks)
  std::vector<PadRows> pad;             // the rows that were used, if masked
  std::size_t depth = 0, outputs = 0, checks = 0;
  link::Record record;               // what came, if anything did
  std::vector<std::uint32_t> reply;  // of kLied: a copy of the array, (rows, outputs)
  Verdict verdict{};                 // of kLied: what is wrong with it
};

// How far a run got.
struct RunOutcome {
  Stop stop = Stop::kDone;
  std::uint64_t calls = 0;  // the number of the last call that was sent
  std::array<double, kParts> wall{}, cpu{};
  std::uint64_t answered = 0, answered_rows = 0, bytes_up = 0, bytes_down = 0;  // calls that came to a good end
  std::vector<std::pair<std::uint64_t, std::size_t>> spent;                     // rows of pads used, by matrix
  // Of the product that the step waits for: its matrix, and the rows of the call that was stopped at, rounded up or
  // not. What is larger than the ring takes, or the accelerator, is sent in several calls.
  std::uint64_t matrix = 0;
  std::size_t row = 0, rows = 0;
  std::optional<SentCall> sent;  // from kUnanswered on
};

class RemoteLinears {
 public:
  struct Rules {
    bool masked = false;
    bool pad_rows = false;                   // rows are rounded up to a power of two
    double awake = 0, awake_in_company = 0;  // seconds that waits stay awake, alone and where others share
  };

  // Throws std::invalid_argument for matrices that don't belong to the specification.
  RemoteLinears(DecoderSpec spec, ThreadPool& pool, Rules rules, const std::vector<ClientMatrix>& matrices);

  // Rows of pads of a matrix, to be used after those that are there. They must stay as long as they are `in_use`.
  void lend(std::uint64_t matrix, const PadRows& pads);
  // Takes rows, for use elsewhere; so many must be left.
  std::vector<PadRows> take(std::uint64_t matrix, std::size_t rows);
  std::size_t left(std::uint64_t matrix) const;
  // The names of what has rows left, or was used by the last call.
  std::set<std::uint64_t> in_use() const;

  // Talks on this link from now on.
  void attach(link::SenderEnd sender, link::ReceiverEnd receiver);

  RunOutcome run(const RunRequest& request);
  // The number of the last call that was sent, for whoever has no outcome since a run threw.
  std::uint64_t calls() const { return calls_; }
  bool masked() const { return rules_.masked; }

 private:
  void put(const ClientMatrix& matrix);
  Stop answer_all(const Product& product);
  std::size_t most(const ClientMatrix& matrix) const;
  Stop call(const Product& product, const ClientMatrix& matrix);
  bool write(const Product& product, const ClientMatrix& matrix);
  void fill(const Product& product, const ClientMatrix& matrix, char* room);
  void mask_rows(const ClientMatrix& matrix, std::size_t first, std::size_t count, std::uint32_t* out);
  void expect(const ClientMatrix& matrix, std::size_t first, std::size_t count);
  Stop receive(const Product& product, const ClientMatrix& matrix);
  Stop settle(const Product& product, const ClientMatrix& matrix);
  SentCall unfinished(Stop stop);
  void company(std::uint64_t shared);
  const char* reply() const { return receiver_.receiver->data(record_) + reply_at_; }

  DecoderSpec spec_;
  ThreadPool& pool_;
  Rules rules_;
  std::vector<ClientMatrix> matrices_;     // by the specification's index
  std::vector<std::deque<PadRows>> pads_;  // by number
  std::vector<std::size_t> spent_;         // rows of these that are in no outcome yet
  Workspace padded_, padded_out_;
  link::SenderEnd sender_{};
  link::ReceiverEnd receiver_{};
  std::uint64_t alone_ = 0;         // calls since others were seen
  std::uint64_t company_ = kAlone;  // as it was last

  // Of the run.
  std::uint64_t calls_ = 0;
  std::size_t row_ = 0, most_rows_ = 0;
  double patience_ = 0;
  Laps laps_;
  RunOutcome outcome_;
  // Of the last call.
  const ClientMatrix* at_ = nullptr;
  std::size_t rows_ = 0;  // from `row_` on
  std::vector<PadRows> pad_;
  std::vector<std::int16_t> q_;
  std::vector<float> scales_;
  std::vector<std::uint32_t> expected_;
  link::Record record_;
  std::size_t reply_at_ = 0;  // where the array begins in it
  Verdict verdict_{};
};

}  // namespace cutset::offload
