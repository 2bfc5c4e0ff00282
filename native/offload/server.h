// The loop of an accelerator over rings of shared memory: takes calls from rings, multiplies those that belong
// together, and writes the products into the rings. The twin is cutset.offload.accelerator.server, which documents what
// is done, and does all that is no plain call of a client that has said hello.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "core/linear.h"
#include "core/memory.h"
#include "core/pool.h"
#include "link/ends.h"
#include "offload/batcher.h"
#include "offload/message.h"

namespace cutset::offload {

class Server {
 public:
  struct Rules {
    std::size_t max_rows = 0;    // of a call
    std::size_t warm_bytes = 0;  // how much is read ahead of what will be multiplied next
    std::size_t warm_step = 0;   // of it, between two looks for messages
    std::size_t cores = 1;       // that parties may stay awake on
  };
  // What ends a turn: something for the twin.
  enum class Event : int {
    kNothing = 0,  // the time is over
    kRecord = 1,   // `record` of `client`
    kProduct = 2,  // `answer` with `product`, for `client`, doesn't fit in the ring now
    kRefusal = 3,  // `reason` why `call` of `client` isn't answered
  };
  struct TurnEnd {
    Event event = Event::kNothing;
    std::uint64_t client = 0, call = 0;
    link::Record record;
    std::string reason;
    Answer answer;
    const std::uint32_t* product = nullptr;  // its (rows, outputs), until the next turn
  };
  struct Counters {
    std::uint64_t calls = 0, rows = 0, bytes_in = 0, bytes_out = 0;
    double busy = 0;
  };

  // The matrices 0, 1, … and the batcher must outlive this.
  Server(std::vector<const PackedI8*> matrices, ThreadPool& pool, Batcher& batcher, link::PollerEnd poller,
         Rules rules);

  // Clients whose calls are answered here, by the poller's tokens.
  void greet(std::uint64_t client, link::SenderEnd sender, link::ReceiverEnd receiver);
  void forget(std::uint64_t client);
  // A call that the twin read.
  bool queue(std::shared_ptr<Call> call) { return batcher_.add(static_cast<std::shared_ptr<Call>&&>(call)); }

  // Serves for `seconds`, or until something is for the twin, or nothing was to be done for `idle` seconds.
  TurnEnd turn(double seconds, double idle);

  // What was counted since the twin asked last: by client, and of all.
  struct Counted {
    std::uint64_t client;
    Counters counters;
  };
  struct Counts {
    std::uint64_t products = 0, shared_rows = 0;
    std::vector<Counted> clients;
  };
  Counts counted();
  static double now();

 private:
  struct Peer {
    std::uint64_t client;
    link::SenderEnd sender;
    link::ReceiverEnd receiver;
    Counters counters;
  };
  using Batch = std::vector<std::shared_ptr<Call>>;

  // That are read between two products: a few of each client.
  std::size_t most_messages() const { return 2 * peers_.size() + 8; }
  Peer* peer(std::uint64_t name);
  Event serve(double seconds, double idle);
  bool take(double seconds, Event& event);
  bool warm(Event& event);
  bool queued(Peer& from);
  Event multiply();
  void compute(std::uint32_t* z);
  void count(double seconds);
  Event failed(const char* why);
  Answer answer_to(const Call& call) const;
  char* room_for(Peer& to, const Answer& what);
  void send(Peer& to, const Answer& what);
  Event deliver(const Call& call, const std::uint32_t* z);

  const std::vector<const PackedI8*> matrices_;
  ThreadPool& pool_;
  Batcher& batcher_;
  link::PollerEnd poller_;
  Rules rules_;
  std::vector<Peer> peers_;
  Workspace workspace_, inputs_, outputs_;
  TurnEnd end_;  // of this turn
  std::uint64_t products_ = 0, shared_rows_ = 0;
  std::size_t next_ = 0, warmed_;  // the matrix that is wanted next, and how much of it was read ahead

  Batch batch_;            // what is multiplied
  std::size_t given_ = 0;  // of these have their answer
  std::size_t row_ = 0;    // of z_, where the next answer begins
  std::size_t rows_ = 0;
  const std::uint32_t* z_ = nullptr;
  std::deque<std::shared_ptr<Call>> apart_;  // of a batch in which somebody's numbers are wrong
  bool owed_ = false;                        // a product is due before more messages are read
};

}  // namespace cutset::offload
