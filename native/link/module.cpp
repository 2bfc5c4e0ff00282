// The Python module cutset.link._ring: rings in memory that Python mapped.
#include <nanobind/nanobind.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "link/ends.h"
#include "link/ring.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace cutset::link {

namespace {

constexpr int kMostParts = 64;
constexpr std::size_t kMuch = 1 << 16;  // bytes, from which copying lets other Python threads run

// Writable memory that Python holds, kept mapped as long as this lives.
class Memory {
 public:
  explicit Memory(nb::handle object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_WRITABLE) != 0) throw nb::python_error();
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { PyBuffer_Release(&view_); }

  template <class T>
  T* at(std::uint64_t offset, std::uint64_t behind = 0) const {
    char* place = static_cast<char*>(view_.buf) + offset;
    const std::uint64_t size = static_cast<std::uint64_t>(view_.len);
    if (offset > size || size - offset < sizeof(T) || size - offset - sizeof(T) < behind ||
        reinterpret_cast<std::uintptr_t>(place) % alignof(T)) {
      throw nb::value_error("that lies outside of the memory, or isn't aligned");
    }
    return reinterpret_cast<T*>(place);
  }

 private:
  Py_buffer view_;
};

std::uint64_t checked(std::uint64_t capacity) {
  if (capacity < 4096 || capacity % 4096 || capacity > (1ull << 31)) throw nb::value_error("capacity");
  return capacity;
}

nb::tuple tuple_of(const Record& record) {
  return nb::make_tuple(static_cast<int>(record.kind), record.offset, record.length, record.total, record.end);
}

// A sender's turn; other threads of Python go on while native code of a hop has it.
Turn my_turn(std::atomic<bool>& busy) {
  std::optional<nb::gil_scoped_release> others;
  if (busy.load()) others.emplace();
  return Turn::behind_a_hop(busy);
}

struct PySender {
  Memory memory, bell_memory;
  Sender sender;
  Patience patience;
  std::atomic<bool> busy{false};

  PySender(nb::handle object, std::uint64_t base, std::uint64_t capacity, std::uint64_t epoch, nb::handle bell_object,
           std::uint64_t bell, double spin, bool naps)
      : memory(object),
        bell_memory(bell_object),
        sender(memory.at<RingWords>(base, checked(capacity)), capacity, epoch, bell_memory.at<Bell>(bell)),
        patience{spin, naps} {}

  SenderEnd end{&sender, &busy};

  // 1: there is room, 0: there was none in time, -1: the receiver closed.
  int room(std::uint64_t length, double timeout) {
    if (sender.receiver_closed()) return -1;
    bool found = sender.claim(length);
    if (!found && timeout > 0) {
      nb::gil_scoped_release others;
      found = sender.wait_for_room(length, timeout, patience);
    }
    return sender.receiver_closed() ? -1 : found;
  }

  int claim(std::uint64_t length, double timeout) {
    Turn turn = my_turn(busy);
    return room(length, timeout);
  }

  void commit(int kind, std::uint64_t total) {
    Turn turn = my_turn(busy);
    sender.commit(static_cast<Kind>(kind), total);
  }

  int send(nb::list parts, double timeout, int kind, std::uint64_t total) {
    Turn turn = my_turn(busy);
    struct Views {
      Py_buffer all[kMostParts];
      int count = 0;
      ~Views() {
        while (count) PyBuffer_Release(&all[--count]);
      }
    } views;
    std::uint64_t length = 0;
    if (nb::len(parts) > kMostParts) throw nb::value_error("too many parts");
    for (nb::handle part : parts) {
      if (PyObject_GetBuffer(part.ptr(), &views.all[views.count], PyBUF_SIMPLE) != 0) throw nb::python_error();
      length += static_cast<std::uint64_t>(views.all[views.count++].len);
    }
    const int found = room(length, timeout);
    if (found != 1) return found;
    const auto copy = [&] {
      char* to = sender.data();
      for (int i = 0; i < views.count; ++i) {
        const std::size_t size = static_cast<std::size_t>(views.all[i].len);
        if (size) std::memcpy(to, views.all[i].buf, size);
        to += size;
      }
    };
    if (length >= kMuch) {
      nb::gil_scoped_release others;
      copy();
    } else {
      copy();
    }
    sender.commit(static_cast<Kind>(kind), kind == kWhole ? length : total);
    return 1;
  }
};

struct PyReceiver {
  Memory memory, bell_memory;
  Receiver receiver;
  Patience patience;
  std::atomic<bool> busy{false};

  PyReceiver(nb::handle object, std::uint64_t base, std::uint64_t capacity, std::uint64_t epoch, nb::handle bell_object,
             std::uint64_t bell, double spin, bool naps)
      : memory(object),
        bell_memory(bell_object),
        receiver(memory.at<RingWords>(base, checked(capacity)), capacity, epoch, bell_memory.at<Bell>(bell)),
        patience{spin, naps} {}

  ReceiverEnd end{&receiver, &patience, &busy};

  nb::object recv(double timeout) {
    Turn turn(busy);
    Record record = receiver.poll();
    if (record.kind == kNone && timeout > 0) {
      nb::gil_scoped_release others;
      receiver.wait(record, timeout, patience);
    }
    return record.kind == kNone ? nb::none() : nb::object(tuple_of(record));
  }
};

struct PyPoller {
  Memory memory;
  Poller poller;
  Patience patience;
  std::vector<std::pair<std::uint64_t, nb::object>> held;  // the receivers that it points to
  std::atomic<bool> busy{false};

  PyPoller(nb::handle object, std::uint64_t bell, std::uint64_t joins, double spin, bool naps)
      : memory(object),
        poller(memory.at<Bell>(bell), memory.at<std::atomic<std::uint32_t>>(joins)),
        patience{spin, naps} {}

  PollerEnd end{&poller, &patience, &busy};

  void add(std::uint64_t token, nb::object receiver) {
    Turn turn(busy);
    poller.add(token, &nb::cast<PyReceiver&>(receiver).receiver);
    held.emplace_back(token, std::move(receiver));
  }

  void remove(std::uint64_t token) {
    Turn turn(busy);
    poller.remove(token);
    const auto gone = [&](const auto& entry) { return entry.first == token; };
    held.erase(std::remove_if(held.begin(), held.end(), gone), held.end());
  }

  void pause(std::uint64_t token, bool paused) {
    Turn turn(busy);
    poller.pause(token, paused);
  }

  nb::object recv(double timeout) {
    Turn turn(busy);
    std::uint64_t token = 0;
    Record record;
    bool found = poller.poll(token, record);
    if (!found && timeout > 0) {
      nb::gil_scoped_release others;
      found = poller.wait(token, record, timeout, patience);
    }
    if (!found) return nb::none();
    return nb::make_tuple(token, tuple_of(record));
  }
};

// Valid as long as the object lives.
template <class Object>
nb::capsule end_of(Object& self) {
  return nb::capsule(&self.end, decltype(self.end)::kName);
}

template <class T>
T load(nb::handle object, std::uint64_t offset) {
  return Memory(object).at<std::atomic<T>>(offset)->load(std::memory_order_seq_cst);
}

template <class T>
void store(nb::handle object, std::uint64_t offset, T value) {
  Memory(object).at<std::atomic<T>>(offset)->store(value, std::memory_order_seq_cst);
}

bool exchange(nb::handle object, std::uint64_t offset, std::uint32_t expected, std::uint32_t wanted) {
  return Memory(object).at<std::atomic<std::uint32_t>>(offset)->compare_exchange_strong(expected, wanted);
}

std::uint32_t add(nb::handle object, std::uint64_t offset, std::uint32_t value) {
  return Memory(object).at<std::atomic<std::uint32_t>>(offset)->fetch_add(value);
}

}  // namespace

}  // namespace cutset::link

using namespace cutset::link;

NB_MODULE(_ring, m) {
  nb::exception<Broken>(m, "Broken");
  m.attr("WORDS") = sizeof(RingWords);
  m.attr("WHOLE") = static_cast<int>(kWhole);
  m.attr("FIRST") = static_cast<int>(kFirst);
  m.attr("NEXT") = static_cast<int>(kNext);
  m.attr("CLOSED") = static_cast<int>(kClosed);
  m.attr("BROKEN") = static_cast<int>(kBroken);
  m.attr("JOINED") = static_cast<int>(kJoined);
  m.def("load32", &load<std::uint32_t>, "memory"_a, "offset"_a);
  m.def("load64", &load<std::uint64_t>, "memory"_a, "offset"_a);
  m.def("store32", &store<std::uint32_t>, "memory"_a, "offset"_a, "value"_a);
  m.def("store64", &store<std::uint64_t>, "memory"_a, "offset"_a, "value"_a);
  m.def("compare_exchange", &exchange, "memory"_a, "offset"_a, "expected"_a, "wanted"_a);
  m.def("fetch_add", &add, "memory"_a, "offset"_a, "value"_a);
  m.def(
      "ring_bell", [](nb::handle memory, std::uint64_t offset) { ring(*Memory(memory).at<Bell>(offset)); }, "memory"_a,
      "offset"_a);
  nb::class_<PySender>(m, "Sender")
      .def(nb::init<nb::handle, std::uint64_t, std::uint64_t, std::uint64_t, nb::handle, std::uint64_t, double, bool>(),
           "memory"_a, "base"_a, "capacity"_a, "epoch"_a, "bell_memory"_a, "bell"_a, "spin"_a, "naps"_a)
      .def_prop_ro("largest", [](const PySender& self) { return self.sender.largest(); })
      .def_prop_ro("offset", [](const PySender& self) { return self.sender.offset(); })
      .def("claim", &PySender::claim, "length"_a, "timeout"_a)
      .def("commit", &PySender::commit, "kind"_a, "total"_a)
      .def("send", &PySender::send, "parts"_a, "timeout"_a, "kind"_a = static_cast<int>(kWhole), "total"_a = 0)
      .def("end", &end_of<PySender>)
      .def("close", [](PySender& self) { self.sender.close(); });
  nb::class_<PyReceiver>(m, "Receiver")
      .def(nb::init<nb::handle, std::uint64_t, std::uint64_t, std::uint64_t, nb::handle, std::uint64_t, double, bool>(),
           "memory"_a, "base"_a, "capacity"_a, "epoch"_a, "bell_memory"_a, "bell"_a, "spin"_a, "naps"_a)
      .def_prop_rw(
          "spin", [](const PyReceiver& self) { return self.patience.spin; },
          [](PyReceiver& self, double spin) { self.patience.spin = spin; })
      .def("end", &end_of<PyReceiver>)
      .def("recv", &PyReceiver::recv, "timeout"_a)
      .def(
          "release", [](PyReceiver& self, std::uint64_t end) { self.receiver.release(end); }, "end"_a)
      .def("close", [](PyReceiver& self) { self.receiver.close(); });
  nb::class_<PyPoller>(m, "Poller")
      .def(nb::init<nb::handle, std::uint64_t, std::uint64_t, double, bool>(), "memory"_a, "bell"_a, "joins"_a,
           "spin"_a, "naps"_a)
      .def_prop_rw(
          "naps", [](const PyPoller& self) { return self.patience.naps; },
          [](PyPoller& self, bool naps) { self.patience.naps = naps; })
      .def_prop_rw(
          "spin", [](const PyPoller& self) { return self.patience.spin; },
          [](PyPoller& self, double spin) { self.patience.spin = spin; })
      .def("add", &PyPoller::add, "token"_a, "receiver"_a)
      .def("end", &end_of<PyPoller>)
      .def("pause", &PyPoller::pause, "token"_a, "paused"_a)
      .def("remove", &PyPoller::remove, "token"_a)
      .def("recv", &PyPoller::recv, "timeout"_a);
}
