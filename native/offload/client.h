// The products of a decoder, multiplied by an accelerator behind a ring: the hot call of cutset.offload.client.linears,
// which is its slow twin.
//
// A step is answered product by product as long as all goes as usual. What doesn't ends the run with a Stop that says
// how far the product got; the twin finishes it, with the same bytes, and may go on here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
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
  kOdd = 4,         // sent; what came is in `record`, and isn't the usual answer
  kBroken = 5,      // sent, and then the ring was broken
  kLied = 6,        // the answer, in `record`, is wrong: see `verdict`
};

// One matrix as the client knows it. What it points to must outlive the linears.
struct ClientMatrix {
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

class RemoteLinears {
 public:
  struct Rules {
    bool masked = false;
    bool pad_rows = false;  // rows are rounded up to a power of two
  };
  struct Counters {
    std::uint64_t calls = 0, rows = 0, bytes_up = 0, bytes_down = 0;
  };

  RemoteLinears(DecoderSpec spec, ThreadPool& pool, Rules rules);

  void put(Site site, int layer, int expert, const ClientMatrix& matrix);
  // Rows of pads of a matrix, to be used after those that are there. They must stay until another call is made.
  void lend(std::uint64_t matrix, const PadRows& pads);
  // Takes rows, for use here or elsewhere; so many must be left.
  std::vector<PadRows> take(std::uint64_t matrix, std::size_t rows);
  std::size_t left(std::uint64_t matrix) const;

  // Talks on this link from now on.
  void attach(link::SenderEnd sender, link::ReceiverEnd receiver);

  Stop run(Step& step, bool count_cpu);

  // The row of the first product at which a run begins, and of the last one at which it stopped, rounded up or not.
  // What is larger than the ring takes, or the accelerator, is sent in several calls.
  std::size_t row = 0;

  // Set before a run: the number of the last call, and how long waits stay awake alone and in company; seconds.
  std::uint64_t calls = 0;
  std::size_t most_rows = 0;  // that the accelerator takes
  double awake = 0, awake_in_company = 0;
  double patience = link::kSlice;  // seconds for which an answer is waited for here
  // Told after a run.
  Laps laps;
  Counters counters;
  // What a run stopped at.
  link::Record record;
  Verdict verdict{};
  std::vector<PadRows> pad;             // the rows that were used, if masked
  std::size_t answer_at = 0;            // where the array begins in `record`
  std::vector<std::int16_t> q;          // empty where it wasn't kept
  std::vector<float> scales;            // of the rows
  std::vector<std::uint32_t> expected;  // of the checks, (rows, checks)
  const ClientMatrix* at = nullptr;     // the matrix
  std::size_t wanted = 0;               // rows of the call, from `row` on

  const char* answer() const { return receiver_.receiver->data(record) + answer_at; }
  void release() { receiver_.receiver->release(record.end); }

 private:
  Stop answer_all(const Product& product);
  std::size_t most(const ClientMatrix& matrix) const;
  Stop call(const Product& product, const ClientMatrix& matrix);
  bool write(const Product& product, const ClientMatrix& matrix);
  void fill(const Product& product, const ClientMatrix& matrix, char* room);
  void mask_rows(const ClientMatrix& matrix, std::size_t first, std::size_t count, std::uint32_t* out);
  void expect(const ClientMatrix& matrix, std::size_t first, std::size_t count);
  Stop receive(const Product& product, const ClientMatrix& matrix);
  Stop settle(const Product& product, const ClientMatrix& matrix);
  void company(std::uint64_t shared);

  DecoderSpec spec_;
  ThreadPool& pool_;
  Rules rules_;
  std::vector<ClientMatrix> matrices_;     // by the specification's index
  std::vector<std::deque<PadRows>> pads_;  // by number
  Workspace padded_, padded_out_;
  link::SenderEnd sender_{};
  link::ReceiverEnd receiver_{};
  std::uint64_t alone_ = 0;         // calls since others were seen
  std::uint64_t company_ = kAlone;  // as it was last
};

}  // namespace cutset::offload
