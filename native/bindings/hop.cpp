// A hop between stages over a ring: hidden states go from the frame that was expected straight into a step.
//
// Native code knows no message of a hop: Python says which bytes stand before the hidden states in the frame that comes
// next, and where among them the sender's clock is. Any other record is Python's.
#include "bindings/hop.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "bindings/decoder.h"
#include "bindings/ends.h"
#include "link/ring.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace {

using namespace cutset;
using namespace cutset::bindings;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// A float of MessagePack, which is big-endian.
double float_at(const char* data) {
  std::uint64_t bits = 0;
  for (int i = 0; i < 8; ++i) bits = bits << 8 | static_cast<unsigned char>(data[i]);
  double found;
  std::memcpy(&found, &bits, sizeof(found));
  return found;
}

enum class Event { kNothing = 0, kOther = 1, kRan = 2, kFailed = 3 };

struct HopEnd {
  Event event = Event::kNothing;
  std::uint64_t client = 0;
  link::Record record;
  double sent = 0, came = 0, ended = 0, sent_on = 0;
  std::string reason;
};

void put_float(char* data, double value) {
  std::uint64_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  for (int i = 7; i >= 0; --i, bits >>= 8) data[i] = static_cast<char>(bits & 0xff);
}

// What stands before the hidden states of a frame, but for 8 bytes, the time when it was sent.
struct Front {
  std::string bytes;
  std::size_t clock;

  Front(const nb::bytes& given, std::size_t at) : bytes(given.c_str(), given.size()), clock(at) {
    require(bytes.size() % sizeof(float) == 0 && clock + 8 <= bytes.size(), "the clock lies outside of the front");
  }

  bool fits(const char* data) const {
    const std::size_t behind = clock + 8;
    return std::memcmp(data, bytes.data(), clock) == 0 &&
           std::memcmp(data + behind, bytes.data() + behind, bytes.size() - behind) == 0;
  }
};

// Puts what a step made into a ring, behind `front`: when it left, or 0 where there is no room, the receiver is gone,
// or another thread sends now.
double put_hidden(const PyStep& step, const link::SenderEnd& to, const Front& front) {
  const std::size_t size = front.bytes.size(), nbytes = step.hidden_bytes();
  link::Turn turn(*to.busy, std::try_to_lock);
  if (!turn || size + nbytes > to.sender->largest() || to.sender->receiver_closed()) return 0;
  if (!to.sender->claim(size + nbytes)) return 0;
  const double sent = now();
  char* data = to.sender->data();
  std::memcpy(data, front.bytes.data(), size);
  put_float(data + front.clock, sent);
  std::memcpy(data + size, step.made(), nbytes);
  to.sender->commit(link::kWhole, size + nbytes);
  return sent;
}

// Where what a step makes goes as soon as its kernels are done; nowhere where there is no end.
struct Target {
  std::optional<link::SenderEnd> to;

  explicit Target(const std::optional<nb::capsule>& end) {
    if (end) to = *static_cast<link::SenderEnd*>(end->data(link::SenderEnd::kName));
  }

  double put(const PyStep& step, const Front& front) const {
    try {
      return to ? put_hidden(step, *to, front) : 0;
    } catch (const link::Broken&) {  // as whoever sends in Python will find
      return 0;
    }
  }
};

// Runs a step that was started; `free` is called once the hidden states were read, or never will be; `send` once they
// were made.
template <class Start, class Free, class Send>
void compute(HopEnd& end, Step& step, Linears& linears, const Start& start, const Free& free, const Send& send) {
  end.came = now();
  bool held = true;
  try {
    start();
    held = false;
    free();
    step.run(linears);
    end.event = Event::kRan;
  } catch (const std::exception& error) {
    end.event = Event::kFailed;
    end.reason = error.what();
  }
  if (held) free();
  end.ended = now();
  if (end.event == Event::kRan) end.sent_on = send();
}

using Bytes1 = Array<const std::uint8_t, 1>;

// A step with its hidden states, as they travel, or of a stage that takes tokens.
HopEnd run_step(PyStep& step, Linears& linears, std::optional<Bytes1> hidden, std::optional<nb::capsule> to,
                std::optional<nb::bytes> front, std::size_t clock) {
  const void* data = hidden ? hidden->data() : nullptr;
  require(!hidden || hidden->shape(0) == step.hidden_bytes(), "these aren't the hidden states of all rows");
  const Target target(to);
  std::optional<Front> known;
  if (front) known.emplace(*front, clock);
  require(known || !target.to, "what goes into a ring has a front");
  nb::gil_scoped_release release;
  HopEnd end;
  compute(
      end, step.step(), linears, [&] { step.start_at(static_cast<const float*>(data)); }, [] {},
      [&] { return known ? target.put(step, *known) : 0; });
  return end;
}

// The bytes of a frame with what a step made behind `front`, sent now.
nb::bytes frame_of(const PyStep& step, nb::bytes front, std::size_t clock) {
  const Front known(front, clock);
  const std::size_t size = known.bytes.size(), nbytes = step.hidden_bytes();
  nb::object made = nb::steal(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size + nbytes)));
  if (!made.is_valid()) throw nb::python_error();
  char* data = PyBytes_AsString(made.ptr());
  std::memcpy(data, known.bytes.data(), size);
  put_float(data + clock, now());
  std::memcpy(data + size, step.made(), nbytes);
  return nb::cast<nb::bytes>(made);
}

// The same into a ring: when it left, or 0 where that can't be now.
double send_hidden(const PyStep& step, nb::capsule end, nb::bytes front, std::size_t clock) {
  return put_hidden(step, *static_cast<link::SenderEnd*>(end.data(link::SenderEnd::kName)), Front(front, clock));
}

class PyHop {
 public:
  explicit PyHop(nb::object poller) : poller_(std::move(poller)), end_(end_of<link::PollerEnd>(poller_)) {}

  HopEnd run(PyStep& step, Linears& linears, std::uint64_t client, nb::object receiver, nb::bytes front,
             std::size_t clock, double sleep, double awake, double late, std::optional<nb::capsule> to) {
    const link::ReceiverEnd from = end_of<link::ReceiverEnd>(receiver);
    const Front expected(front, clock);
    const Target target(to);
    nb::gil_scoped_release release;
    HopEnd end;
    if (!wait(end, sleep, awake, late)) return end;
    const std::size_t size = expected.bytes.size();
    const bool whole = end.client == client && end.record.kind == link::kWhole;
    if (!whole || end.record.length != size + step.hidden_bytes()) return end;
    const char* data = from.receiver->data(end.record);
    if (!expected.fits(data)) return end;
    end.sent = float_at(data + clock);
    since_.store(now());
    // The hidden states are read once, when the step starts; then their place in the ring is free.
    compute(
        end, step.step(), linears, [&] { step.start_at(reinterpret_cast<const float*>(data + size)); },
        [&] { from.receiver->release(end.record.end); }, [&] { return target.put(step, expected); });
    since_.store(0);
    return end;
  }

  double since() const { return since_.load(); }

 private:
  bool wait(HopEnd& end, double sleep, double awake, double late) {
    link::Turn turn(*end_.busy);
    bool found = end_.poller->poll(end.client, end.record);
    for (const auto& [seconds, spin] : {std::pair(sleep, 0.0), std::pair(awake, awake), std::pair(late, 0.0)}) {
      if (!found && seconds > 0)
        found = end_.poller->wait(end.client, end.record, seconds, {spin, end_.patience->naps, true});
    }
    if (found) end.event = Event::kOther;
    return found;
  }

  nb::object poller_;
  link::PollerEnd end_;
  std::atomic<double> since_{0};
};

nb::tuple record_of(const HopEnd& end) {
  const link::Record& found = end.record;
  return nb::make_tuple(static_cast<int>(found.kind), found.offset, found.length, found.total, found.end);
}

}  // namespace

void bind_hop(nb::module_& m) {
  nb::class_<HopEnd>(m, "HopEnd", "What ended a wait of a StepHop: nothing where all is false.")
      .def_prop_ro("ran", [](const HopEnd& self) { return self.event == Event::kRan; })
      .def_prop_ro(
          "started", [](const HopEnd& self) { return self.event >= Event::kRan; }, "it ran, or failed")
      .def_prop_ro(
          "other", [](const HopEnd& self) { return self.event == Event::kOther; }, "a record came")
      .def_ro("client", &HopEnd::client)
      .def_prop_ro("record", &record_of, "that came and isn't what was expected")
      .def_ro("sent", &HopEnd::sent, "by the sender's clock")
      .def_ro("came", &HopEnd::came)
      .def_ro("ended", &HopEnd::ended)
      .def_ro("sent_on", &HopEnd::sent_on, "when what it made was put into a ring; 0 where it wasn't")
      .def_ro("reason", &HopEnd::reason, "why it failed");

  m.def(
      "run_step", &run_step, "step"_a, "linears"_a, "hidden"_a.noconvert() = nb::none(), nb::kw_only(),
      "to"_a = nb::none(), "front"_a = nb::none(), "clock"_a = 0,
      "Starts a prepared step with the bytes of its hidden states, or of tokens, and runs it. What it makes goes into "
      "the ring whose sender's end `to` is, if that can be done at once.");
  m.def("frame_of", &frame_of, "step"_a, "front"_a, "clock"_a,
        "The bytes of a frame with what a step made behind `front`, sent now.");
  m.def(
      "send_hidden", &send_hidden, "step"_a, "end"_a, "front"_a, "clock"_a,
      "Puts what a step made into a ring, behind `front`: when it left, or 0 where there is no room, or another thread "
      "sends. `end` is the sender's.");

  nb::class_<PyHop>(m, "StepHop", "Runs prepared steps with the hidden states that a ring brings.")
      .def(nb::init<nb::object>(), "poller"_a)
      .def_prop_ro("since", &PyHop::since, "when the step began that runs now, by the monotonic clock; 0 without one")
      .def("run", &PyHop::run, "step"_a, "linears"_a, nb::kw_only(), "client"_a, "receiver"_a, "front"_a, "clock"_a,
           "sleep"_a, "awake"_a, "late"_a = 0.0, "to"_a = nb::none(),
           "Waits asleep, then awake, and then asleep again for the frame that begins so, and runs the step with it. "
           "What "
           "it makes goes into the ring whose sender's end `to` is, behind the same front, if that can be done at "
           "once.");
}
