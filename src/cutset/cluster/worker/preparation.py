"""A worker's plans on their way from Prepare to Ready, in a thread of their own: weights, stages, links to the next."""

from __future__ import annotations

import json
import queue
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cutset.cluster.messages import (
    Allow,
    Connect,
    Failed,
    Holds,
    Inventory,
    Message,
    Need,
    Prepare,
    Prepared,
    Ready,
    Retire,
    WeightPart,
)
from cutset.cluster.values import Bytes
from cutset.cluster.weight_store import WeightStore
from cutset.cluster.wire import Outbox
from cutset.cluster.worker.freed import give_back
from cutset.cluster.worker.neighbour import Neighbour, dial
from cutset.cluster.worker.plan_run import PlanRun, memory_of
from cutset.cluster.worker.worker_settings import WorkerSettings
from cutset.codec import KeyRequest
from cutset.errors import ConfigError, CutsetError, FrameError, LinkClosed, printable
from cutset.partition.description import graph_digest, read_description
from cutset.partition.graph import Graph
from cutset.partition.plan import Plan, read_plan

__all__ = ["Planned", "Preparation"]

MOST_PLANS = 4  # that a coordinator keeps alive at once
MOST_GRAPHS = 8
MOST_WAITING = 2 << 20  # bytes of weights
MOST_WAIT = 0.2  # seconds: a heartbeat waits, too


@dataclass
class Planned:
    """A plan on its way from Prepare to Ready."""

    order: Prepare
    graph: Graph
    plan: Plan
    missing: set[str]
    begun: float = field(default_factory=time.monotonic)
    loaded: int = 0
    run: PlanRun | None = None
    next: Neighbour | None = None


class Preparation:
    """The plans of a session, and the thread that gets them ready. `put`, `allow` and `close` are for others."""

    def __init__(
        self,
        secret: bytes,
        name: str,
        settings: WorkerSettings,
        outbox: Outbox,
        expect: Callable[[frozenset[bytes]], None],
    ) -> None:
        self.plans: dict[int, Planned] = {}
        self.retired = 0  # plans with lower numbers are over
        self._secret, self._name, self._settings, self._expect = secret, name, settings, expect
        self._outbox, self._say = outbox, outbox.say
        runtime, path = settings.runtime, settings.weights
        self._store = WeightStore(settings.cache, None if path is None else lambda: runtime.open_weights(path))
        self._graphs: dict[str, Graph] = {}
        self._inventory: Inventory | None = None
        self._reported: list[str] | None = None  # what was last reported to the coordinator
        self._nexts: dict[tuple[str, bytes | None], Neighbour] = {}
        self._allowed: Prepare | Allow | None = None  # the newest word on thresholds
        self._orders: queue.SimpleQueue[tuple[Message, Sequence[Bytes]] | None] = queue.SimpleQueue()
        self._closing = False
        self._room = threading.Condition()
        self._waiting = 0  # bytes of weights that came and are nowhere yet
        self.threads = [threading.Thread(target=self._obey, name=f"cutset-prepare-{name}", daemon=True)]
        self.threads[0].start()

    def put(self, message: Inventory | Prepare | WeightPart | Connect | Retire, arrays: Sequence[Bytes]) -> None:
        """Obeys an order of the coordinator soon. The arrays are the caller's no more. It waits a moment where weights
        come quicker than they are taken, so that they don't pile up in memory."""
        if isinstance(message, Prepare):
            self._allowed = message
        if isinstance(message, WeightPart):
            nbytes = sum(array.nbytes for array in arrays)
            with self._room:
                self._room.wait_for(lambda: self._waiting < MOST_WAITING or self._closing, MOST_WAIT)
                self._waiting += nbytes
        self._orders.put((message, arrays))

    def allow(self, message: Allow) -> None:
        """What stages send may be off by so much."""
        self._allowed = message
        for planned in list(self.plans.values()):
            if planned.run is not None:
                planned.run.allow(message)

    def close(self) -> None:
        """Ends the thread and the links to next workers, and forgets plans and weights."""
        with self._room:
            self._closing = True
            self._room.notify_all()
        self._orders.put(None)
        self._leave()
        self.plans.clear()
        self._store.keep(())

    def _leave(self) -> None:
        for neighbour in list(self._nexts.values()):
            neighbour.close()

    # The thread that prepares.

    def _obey(self) -> None:
        self._settings.runtime.begin_thread()
        while (order := self._orders.get()) is not None and not self._closing:
            message, arrays = order
            number = getattr(message, "plan", 0)
            try:
                if isinstance(message, Inventory):
                    self._graph(message)
                    self._inventory, self._reported = message, None
                elif isinstance(message, Prepare):
                    self._prepare(message)
                elif isinstance(message, WeightPart):
                    with self._room:
                        self._waiting -= sum(array.nbytes for array in arrays)
                        self._room.notify_all()
                    self._weight(message, arrays)
                elif isinstance(message, Connect):
                    self._connect(message.plan)
                elif isinstance(message, Retire):
                    self._retire(message.before)
                self._report_holdings()
            except CutsetError as error:
                self.plans.pop(number, None)
                self._say(Failed(number, self._blame(error), printable(str(error))[:800]))
            except Exception as error:  # the runtime's own errors; a bug of ours ends the plan here, not this thread
                if not isinstance(error, MemoryError | RuntimeError | OSError):
                    traceback.print_exc()
                self.plans.pop(number, None)
                self._say(Failed(number, self._name, f"{type(error).__name__}: {printable(str(error))[:300]}"))
        self._leave()  # should a link have been made after `close`

    def _blame(self, error: CutsetError) -> str:
        return error.party if isinstance(error, _Unreachable) else self._name

    def _prepare(self, order: Prepare) -> None:
        if order.plan < self.retired or order.plan in self.plans:
            raise ConfigError(f"plan {order.plan} is over or known already")
        if len(self.plans) >= MOST_PLANS:
            raise ConfigError(f"{MOST_PLANS} plans are alive already; retire one")
        graph = self._graph(order)
        plan = read_plan(order.stages)
        plan.check(graph, order.graph)
        incremental = order.delta_scale is not None
        limit = self._settings.memory
        need = memory_of(graph, plan, order.name, order.in_flight, incremental=incremental)
        if limit and need > limit:
            raise ConfigError(
                f"this stage needs about {need / 2**20:,.0f} MiB; this worker may use {limit >> 20} (--memory)"
            )
        if order.previous is not None:
            self._admit(order.previous)
        if order.back is not None:
            self._outbox.pace(order.back)
        planned = Planned(order, graph, plan, set())
        for name, digest in order.weights.items():
            if name not in graph.weights:
                raise ConfigError(f"the graph has no weight {name}")
            weight = self._store.find(name, graph.weights[name], digest)
            if weight is None:
                planned.missing.add(name)
            else:
                planned.loaded += weight.nbytes
        self.plans[order.plan] = planned
        if planned.missing:
            self._say(Need(order.plan, sorted(planned.missing)))
        else:
            self._build(planned)

    def _report_holdings(self) -> None:
        """Reports to the coordinator which weights of its inventory needn't be sent, when that has changed."""
        inventory = self._inventory
        if inventory is None or any(planned.missing for planned in self.plans.values()):
            return
        values = self._graphs[inventory.graph].weights
        held = [
            name
            for name, digest in inventory.weights.items()
            if name in values and self._store.holds(name, values[name], digest)
        ]
        if held != self._reported:
            self._reported = held
            self._say(Holds(inventory.graph, held))

    def _graph(self, order: Inventory | Prepare) -> Graph:
        if order.description:
            if len(self._graphs) >= MOST_GRAPHS:
                raise ConfigError("too many graphs in one session")
            try:
                table = json.loads(order.description)
            except (ValueError, RecursionError):
                raise ConfigError("the description of the graph isn't JSON") from None
            graph = read_description(table)
            if graph_digest(graph) != order.graph:
                raise ConfigError("the description of the graph has another digest than was said")
            self._graphs[order.graph] = graph
        if order.graph not in self._graphs:
            raise ConfigError("the graph of this plan was never described")
        return self._graphs[order.graph]

    def _weight(self, message: WeightPart, arrays: Sequence[Bytes]) -> None:
        if len(arrays) != 1:
            raise FrameError("a weight comes as one array")
        # Dead plans' weights may still come; they are of no use.
        for planned in list(self.plans.values()):
            for name in planned.missing:
                if planned.order.weights[name] == message.digest:
                    value = planned.graph.weights[name]
                    if message.total != value.nbytes:
                        raise FrameError(f"the weight {name} has {value.nbytes} bytes, not {message.total}")
                    if self._store.add(value, message.digest, message.offset, arrays[0]):
                        self._complete(message.digest)
                    return

    def _complete(self, digest: str) -> None:
        for planned in list(self.plans.values()):
            if planned.run is None and planned.missing:
                planned.missing = {name for name in planned.missing if planned.order.weights[name] != digest}
                if not planned.missing:
                    self._build(planned)

    def _build(self, planned: Planned) -> None:
        order, graph, weights = planned.order, planned.graph, {}
        for name, digest in order.weights.items():
            weight = self._store.find(name, graph.weights[name], digest)
            if weight is not None:
                weights[name] = weight
        give_back()
        planned.run = run = PlanRun(order, graph, planned.plan, weights, self._settings.runtime)
        if self._allowed is not None:  # may have come while the stage was made
            run.allow(self._allowed)
        self._say(Prepared(order.plan, planned.loaded, time.monotonic() - planned.begun))

    def _connect(self, number: int) -> None:
        planned = self.plans.get(number)
        if planned is None or planned.run is None:
            raise ConfigError(f"plan {number} isn't prepared")
        peer = planned.order.next
        if peer is not None:
            key = (peer.address, peer.key)
            found = self._nexts.get(key)
            if found is None or found.outbox.broken:
                if found is not None:
                    found.close()
                try:
                    found = dial(peer, self._name, self._secret, self._settings, planned.order.pace, self._next_says)
                except CutsetError as error:
                    raise _Unreachable(peer.name, str(error)) from None
                self._nexts[key] = found
            found.bandwidth = planned.order.bandwidth
            planned.next = found
        self._say(Ready(number))

    def _next_says(self, neighbour: Neighbour, message: Message | CutsetError) -> None:
        """From the thread that listens to the next worker: a request for a key, or why it went away."""
        if isinstance(message, KeyRequest):
            planned = self.plans.get(message.plan)
            if planned is not None and planned.run is not None and planned.next is neighbour:
                planned.run.sender.request(message)
        elif isinstance(message, CutsetError):
            for number, planned in list(self.plans.items()):
                if planned.next is neighbour:
                    self._say(Failed(number, neighbour.name, str(message)[:500]))

    def _admit(self, *more: bytes) -> None:
        """Lets those connect whom a plan names as the worker before this one, and nobody else: not one any more whom
        only plans named that are over, whose key may have been revoked since."""
        named = {planned.order.previous for planned in self.plans.values()} | set(more)
        self._expect(frozenset(key for key in named if key is not None))

    def _retire(self, before: int) -> None:
        self.retired = max(self.retired, before)
        over = [number for number in self.plans if number < before]
        for number in over:
            del self.plans[number]
        self._store.keep({digest for planned in self.plans.values() for digest in planned.order.weights.values()})
        used = {planned.next for planned in self.plans.values()}
        for key, neighbour in list(self._nexts.items()):
            if neighbour not in used and len(used):
                neighbour.close()
                del self._nexts[key]
        if over:
            self._admit()
            give_back()


class _Unreachable(LinkClosed):
    """The next worker can't be reached from here."""

    def __init__(self, party: str, reason: str) -> None:
        super().__init__(f"{party} can't be reached: {reason}")
        self.party = party
