// The accelerator's native loop and its batcher for Python; native/offload/server.h and batcher.h document them.
#include "bindings/server.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/common.h"
#include "bindings/ends.h"
#include "offload/server.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace {

using namespace cutset;
using namespace cutset::bindings;
using namespace cutset::offload;

std::shared_ptr<Call> call_of(std::uint64_t client, std::uint64_t number, std::uint64_t matrix, const AnyArray& x,
                              double arrived) {
  auto call = std::make_shared<Call>();
  call->masked = x.dtype() == nb::dtype<std::uint32_t>();
  if (call->masked) {
    check_array<std::uint32_t>(x, "x", 2, "uint32 or int16");
  } else {
    check_array<std::int16_t>(x, "x", 2, "uint32 or int16");
  }
  call->client = client;
  call->number = number;
  call->matrix = matrix;
  call->rows = x.shape(0);
  call->arrived = arrived;
  call->room.reset(new std::uint32_t[(x.nbytes() + 3) / 4]);
  const char* data = static_cast<const char*>(x.data());
  std::copy(data, data + x.nbytes(), reinterpret_cast<char*>(call->room.get()));
  return call;
}

nb::object wait_of(Batcher& self, double now) {
  const double seconds = self.wait(now);
  return seconds == Batcher::kNothing ? nb::none() : nb::object(nb::float_(seconds));
}

nb::list take_from(Batcher& self, double now) {
  nb::list taken;
  for (const auto& call : self.take(now)) taken.append(nb::make_tuple(call->client, call->number, call->matrix));
  return taken;
}

// The server and what it points to.
class PyServer {
 public:
  PyServer(nb::list linears, ThreadPool& pool, Batcher& batcher, nb::object poller, std::size_t max_rows,
           std::size_t warm_bytes, std::size_t warm_step, std::size_t cores)
      : poller_(std::move(poller)),
        server_(matrices(linears), pool, batcher, end_of<link::PollerEnd>(poller_),
                {max_rows, warm_bytes, warm_step, cores}) {
    for (nb::handle linear : linears) held_.push_back(nb::borrow(linear));
  }

  void greet(std::uint64_t client, nb::object sender, nb::object receiver) {
    server_.greet(client, end_of<link::SenderEnd>(sender), end_of<link::ReceiverEnd>(receiver));
    ends_[client] = {std::move(sender), std::move(receiver)};
  }

  void forget(std::uint64_t client) {
    server_.forget(client);
    ends_.erase(client);
  }

  bool queue(std::uint64_t client, std::uint64_t number, std::uint64_t matrix, const AnyArray& x) {
    if (matrix >= held_.size() || x.ndim() != 2 || x.shape(0) == 0 ||
        x.shape(1) != nb::cast<const PackedI8&>(held_[matrix]).depth()) {
      refuse("there is no such matrix, or x has another depth");
    }
    return server_.queue(call_of(client, number, matrix, x, Server::now()));
  }

  Server::TurnEnd turn(double seconds, double idle) {
    nb::gil_scoped_release release;
    return server_.turn(seconds, idle);
  }

  // What was counted since the last time: of all, and by client.
  nb::tuple counted() {
    const Server::Counts found = server_.counted();
    nb::dict all, each;
    all["products"] = found.products;
    all["shared_rows"] = found.shared_rows;
    for (const auto& [client, counters] : found.clients) {
      nb::dict one;
      one["calls"] = counters.calls;
      one["rows"] = counters.rows;
      one["bytes_in"] = counters.bytes_in;
      one["bytes_out"] = counters.bytes_out;
      one["busy_s"] = counters.busy;
      each[nb::int_(client)] = one;
    }
    return nb::make_tuple(all, each);
  }

 private:
  static std::vector<const PackedI8*> matrices(const nb::list& linears) {
    std::vector<const PackedI8*> found;
    for (nb::handle linear : linears) found.push_back(&nb::cast<const PackedI8&>(linear));
    if (found.empty()) refuse("there are no matrices");
    return found;
  }

  nb::object poller_;
  std::vector<nb::object> held_;
  std::map<std::uint64_t, std::pair<nb::object, nb::object>> ends_;
  Server server_;
};

template <class T>
nb::object copied(const Server::TurnEnd& end) {
  auto made = new_array<T>({end.answer.rows, end.answer.outputs});
  const T* data = reinterpret_cast<const T*>(end.product);
  std::copy(data, data + end.answer.rows * end.answer.outputs, made.data());
  return nb::cast(made);
}

// A copy, to be made before the next turn.
nb::object product_of(const Server::TurnEnd& end) {
  if (!end.product) return nb::none();
  return end.answer.masked ? copied<std::uint32_t>(end) : copied<std::int32_t>(end);
}

nb::tuple record_of(const Server::TurnEnd& end) {
  const link::Record& found = end.record;
  return nb::make_tuple(static_cast<int>(found.kind), found.offset, found.length, found.total, found.end);
}

}  // namespace

void bind_server(nb::module_& m) {
  nb::class_<Batcher>(m, "Batcher", "Which waiting calls are multiplied together, and when.")
      .def(nb::init<std::uint64_t, double, std::size_t, std::size_t, std::vector<std::uint64_t>>(), nb::kw_only(),
           "matrices"_a, "window"_a, "max_rows"_a, "max_waiting"_a, "costs"_a = std::vector<std::uint64_t>())
      .def("__len__", &Batcher::waiting)
      .def_prop_ro("clients", &Batcher::clients)
      .def_prop_ro("complete", &Batcher::complete)
      .def("join", &Batcher::join, "client"_a)
      .def("leave", &Batcher::leave, "client"_a)
      .def(
          "add",
          [](Batcher& self, std::uint64_t client, std::uint64_t number, std::uint64_t matrix, const AnyArray& x,
             double arrived) { return self.add(call_of(client, number, matrix, x, arrived)); },
          "client"_a, "number"_a, "matrix"_a, "x"_a, "arrived"_a)
      .def("answered", &Batcher::answered, "client"_a, "now"_a)
      .def("has_room", &Batcher::has_room, "client"_a)
      .def("known", &Batcher::known, "client"_a, "number"_a, "now"_a)
      .def("drop", &Batcher::drop, "client"_a, "number"_a)
      .def("hold", &Batcher::hold, "client"_a, "held"_a)
      .def("busy", &Batcher::busy, "client"_a, "waits"_a)
      .def("charge", &Batcher::charge, "client"_a, "seconds"_a)
      .def("may", &Batcher::may, "client"_a, "now"_a)
      .def("cost", &Batcher::cost, "matrix"_a)
      .def_prop_rw("speed", &Batcher::speed, &Batcher::set_speed)
      .def("wait", &wait_of, "now"_a)
      .def("take", &take_from, "now"_a, "(client, number, matrix) of the calls of the next product")
      .def(
          "take_pieces",
          [](Batcher& self, double now) {
            nb::list taken;
            for (const auto& call : self.take(now)) {
              taken.append(nb::make_tuple(call->client, call->number, call->first, call->count));
            }
            return taken;
          },
          "now"_a, "the same with the rows that are taken: (client, number, first, count)");

  nb::class_<Server::TurnEnd>(m, "TurnEnd", "What ended a turn of a RingServer.")
      .def_prop_ro("event", [](const Server::TurnEnd& self) { return static_cast<int>(self.event); })
      .def_ro("client", &Server::TurnEnd::client)
      .def_ro("call", &Server::TurnEnd::call)
      .def_prop_ro("record", &record_of)
      .def_ro("reason", &Server::TurnEnd::reason)
      .def_prop_ro("seconds", [](const Server::TurnEnd& self) { return self.answer.seconds; })
      .def_prop_ro("shared", [](const Server::TurnEnd& self) { return self.answer.shared; })
      .def_prop_ro("product", &product_of);

  nb::class_<PyServer>(m, "RingServer", "The loop of an accelerator over rings of shared memory.")
      .def(nb::init<nb::list, ThreadPool&, Batcher&, nb::object, std::size_t, std::size_t, std::size_t, std::size_t>(),
           "linears"_a, "pool"_a, "batcher"_a, "poller"_a, nb::kw_only(), "max_rows"_a, "warm_bytes"_a, "warm_step"_a,
           "cores"_a, nb::keep_alive<1, 3>(), nb::keep_alive<1, 4>())
      .def("greet", &PyServer::greet, "client"_a, "sender"_a, "receiver"_a)
      .def("forget", &PyServer::forget, "client"_a)
      .def("queue", &PyServer::queue, "client"_a, "number"_a, "matrix"_a, "x"_a)
      .def("turn", &PyServer::turn, "seconds"_a, "idle"_a)
      .def("counted", &PyServer::counted);
}
