"""What one coordinator wants of this worker: its plans, their weights, the links that pictures take."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cutset.errors import ConfigError, CutsetError, FrameError, LinkClosed, LinkError
from cutset.link import Link
from cutset.stream.delta import KeyRequest
from cutset.stream.description import graph_digest, read_description
from cutset.stream.graph import Graph
from cutset.stream.messages import (
    Allow,
    Connect,
    Failed,
    HopReport,
    Lost,
    Message,
    More,
    Need,
    Prepare,
    Prepared,
    Ready,
    Retire,
    Tune,
    Weight,
    Work,
)
from cutset.stream.planning.plan import Plan, read_plan
from cutset.stream.wire import Assembler, Outbox
from cutset.stream.worker.neighbour import Neighbour, dial
from cutset.stream.worker.pipeline import Job, Pipeline
from cutset.stream.worker.plan_run import PlanRun, warm_up
from cutset.stream.worker.weights import WeightStore

__all__ = ["Session", "Setting"]

Bytes = NDArray[np.uint8]
MOST_PLANS = 4  # that a coordinator keeps alive at once
MOST_GRAPHS = 8


@dataclass(frozen=True)
class Setting:
    """How a worker runs, whoever comes."""

    threads: int = 1
    device: str = "cpu"
    memory: int = 0  # bytes, 0: no limit
    cache: Path | None = None
    weights: Path | None = None
    keys: Any = None  # cutset.link.keys.Keys, with tcp
    coordinators: frozenset[bytes] | None = None  # with tcp: the public keys of those who may give orders
    speed: float = 1.0  # emulated, as a share of this machine's


@dataclass
class _Planned:
    """A plan on its way from Prepare to Ready."""

    order: Prepare
    graph: Graph
    plan: Plan
    missing: set[str]
    begun: float = field(default_factory=time.monotonic)
    loaded: int = 0
    run: PlanRun | None = None
    next: Neighbour | None = None


class Session:
    """Made when a coordinator says hello; `close` ends it. What takes long is done in a thread of its own."""

    def __init__(
        self, secret: bytes, name: str, link: Link, setting: Setting, expect: Callable[[frozenset[bytes]], None]
    ) -> None:
        self.secret, self.name, self.link = secret, name, link
        self.heard = time.monotonic()
        self.over = ""  # why the session is over
        self._setting, self._expect = setting, expect
        self.outbox = Outbox(link, f"{name}-back", lambda error: self.end(str(error)))
        self.say = self.outbox.say
        self._store = WeightStore(setting.cache, setting.weights)
        self._pipeline = Pipeline(name, setting.threads, self.say, setting.speed)
        self._graphs: dict[str, Graph] = {}
        self._plans: dict[int, _Planned] = {}
        self._retired = 0
        self._allowed: Prepare | Allow | None = None  # the newest word on thresholds
        self._nexts: dict[tuple[str, bytes | None], Neighbour] = {}
        self._upstream: dict[Link, Assembler] = {link: Assembler()}
        self._outboxes: dict[Link, Outbox] = {link: self.outbox}
        self._orders: queue.SimpleQueue[tuple[Message, Sequence[Bytes]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._obey, name=f"cutset-prepare-{name}", daemon=True).start()

    # Called by the thread that receives.

    def join(self, link: Link) -> None:
        """A worker that will send pictures has come. Raises LinkError for one that no plan announced."""
        expected = {planned.order.previous for planned in list(self._plans.values())}
        if self._setting.coordinators is not None and link.peer not in {key.hex() for key in expected if key}:
            raise LinkError("this worker's key isn't the one that the coordinator announced")
        self._upstream[link] = Assembler()
        self._outboxes[link] = Outbox(link, f"{self.name}-up", lambda error: None)

    def left(self, link: Link) -> None:
        """A link is gone."""
        if link is self.link:
            self.end("the coordinator went away")
        elif self._upstream.pop(link, None) is not None:
            self._outboxes.pop(link).close()

    def knows(self, link: Link) -> bool:
        return link in self._upstream

    def heed(self, link: Link, message: Message, arrays: Sequence[Bytes]) -> None:
        """Acts on a message of one of this session's links. Raises FrameError for one that may not come there."""
        if link is self.link:
            self.heard = time.monotonic()
        if isinstance(message, Work):
            self._work(link, message, arrays)
        elif isinstance(message, More):
            self._picture(link, self._upstream[link].more(arrays))
        elif link is not self.link:
            raise FrameError("only a coordinator may say that")
        elif isinstance(message, KeyRequest):
            planned = self._plans.get(message.plan)
            if planned is not None and planned.run is not None and planned.run.last:
                planned.run.sender.request(message)
        elif isinstance(message, Tune):
            planned = self._plans.get(message.plan)
            if planned is not None and planned.run is not None and message.bandwidth > 0:
                planned.run.sender.bandwidth = message.bandwidth
        elif isinstance(message, Allow):
            self._allowed = message
            for planned in list(self._plans.values()):
                if planned.run is not None:
                    planned.run.allow(message)
        elif isinstance(message, Prepare | Weight | Connect | Retire):
            if isinstance(message, Prepare):
                self._allowed = message
            self._orders.put((message, [np.array(array) for array in arrays]))
        else:
            raise FrameError("this message is not for a worker")

    def _work(self, link: Link, work: Work, arrays: Sequence[Bytes]) -> None:
        planned = self._plans.get(work.plan)
        limit = max((p.run.limit for p in self._plans.values() if p.run is not None), default=0)
        if planned is not None and planned.run is not None:
            limit = planned.run.limit
        elif work.plan >= self._retired:
            raise FrameError(f"a picture of plan {work.plan} came, which isn't prepared here")
        self._picture(link, self._upstream[link].begin(work, arrays, limit or sum(work.lengths) + 1))

    def _picture(self, link: Link, whole: tuple[Work, list[Bytes]] | None) -> None:
        if whole is None:
            return
        work, arrays = whole
        planned = self._plans.get(work.plan)
        if planned is None or planned.run is None or planned.order.epoch != work.epoch:
            return  # of a plan that is over
        if planned.run.first != (link is self.link):
            raise FrameError("a picture came from another party than the plan says")
        if self._pipeline.waiting >= 2 * planned.order.in_flight + 8:
            raise FrameError(f"{self._pipeline.waiting} pictures wait here, more than agreed")
        to = self.outbox if planned.run.last else planned.next.outbox if planned.next else None
        if to is None:
            self.say(Lost(work.plan, work.source, work.picture, work.ticket, "the next worker isn't connected"))
            return
        now, first = time.monotonic(), self._upstream[link].first
        hop = HopReport(sum(work.lengths), work.sent, first, now)
        self._pipeline.put(Job(planned.run, work, arrays, hop, self._outboxes[link].say, to))

    # Anyone.

    def end(self, why: str) -> None:
        """The session is over; the thread that receives closes it."""
        self.over = self.over or why

    def close(self) -> None:
        self._orders.put(None)
        self._pipeline.close()
        for neighbour in list(self._nexts.values()):
            neighbour.close()
        for outbox in list(self._outboxes.values()):
            outbox.close()
        self._expect(frozenset())
        self._plans.clear()
        self._store.keep(())

    # The thread that prepares.

    def _obey(self) -> None:
        torch.set_num_threads(self._setting.threads)
        while (order := self._orders.get()) is not None:
            message, arrays = order
            number = getattr(message, "plan", 0)
            try:
                if isinstance(message, Prepare):
                    self._prepare(message)
                elif isinstance(message, Weight):
                    self._weight(message, arrays)
                elif isinstance(message, Connect):
                    self._connect(message.plan)
                elif isinstance(message, Retire):
                    self._retire(message.before)
            except CutsetError as error:
                self._plans.pop(number, None)
                self.say(Failed(number, self._blame(error), str(error)[:800]))
            except (MemoryError, RuntimeError, OSError) as error:  # torch has no kinds of its own
                self._plans.pop(number, None)
                self.say(Failed(number, self.name, f"{type(error).__name__}: {str(error)[:300]}"))

    def _blame(self, error: CutsetError) -> str:
        return error.party if isinstance(error, _Unreachable) else self.name

    def _prepare(self, order: Prepare) -> None:
        if order.plan < self._retired or order.plan in self._plans:
            raise ConfigError(f"plan {order.plan} is over or known already")
        if len(self._plans) >= MOST_PLANS:
            raise ConfigError(f"{MOST_PLANS} plans are alive already; retire one")
        graph = self._graph(order)
        plan = read_plan(order.stages)
        plan.check(graph, order.graph)
        limit, need = self._setting.memory, PlanRun.memory(graph, plan, order.name, order.in_flight)
        if limit and need > limit:
            raise ConfigError(f"this stage needs about {need >> 20} MiB; this worker may use {limit >> 20} (--memory)")
        if order.previous is not None:
            known = {p.order.previous for p in self._plans.values()} | {order.previous}
            self._expect(frozenset(key for key in known if key is not None))
        if order.back is not None:
            self.outbox.pace(order.back)
        planned = _Planned(order, graph, plan, set())
        for name, digest in order.weights.items():
            if name not in graph.weights:
                raise ConfigError(f"the graph has no weight {name}")
            tensor = self._store.find(name, graph.weights[name], digest)
            if tensor is None:
                planned.missing.add(name)
            else:
                planned.loaded += tensor.nbytes
        self._plans[order.plan] = planned
        if planned.missing:
            self.say(Need(order.plan, sorted(planned.missing)))
        else:
            self._build(planned)

    def _graph(self, order: Prepare) -> Graph:
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

    def _weight(self, message: Weight, arrays: Sequence[Bytes]) -> None:
        if len(arrays) != 1:
            raise FrameError("a weight comes as one array")
        # Dead plans' weights may still come; they are of no use.
        for planned in list(self._plans.values()):
            for name in planned.missing:
                if planned.order.weights[name] == message.digest:
                    value = planned.graph.weights[name]
                    if message.total != value.nbytes:
                        raise FrameError(f"the weight {name} has {value.nbytes} bytes, not {message.total}")
                    if self._store.add(value, message.digest, message.offset, arrays[0]):
                        self._complete(message.digest)
                    return

    def _complete(self, digest: str) -> None:
        for planned in list(self._plans.values()):
            if planned.run is None and planned.missing:
                planned.missing = {name for name in planned.missing if planned.order.weights[name] != digest}
                if not planned.missing:
                    self._build(planned)

    def _build(self, planned: _Planned) -> None:
        order, graph, tensors = planned.order, planned.graph, {}
        for name, digest in order.weights.items():
            tensor = self._store.find(name, graph.weights[name], digest)
            if tensor is not None:
                tensors[name] = tensor
        run = PlanRun(order, graph, planned.plan, tensors, self._setting.device)
        warm_up(run)
        planned.run = run
        if self._allowed is not None:  # may have come while the stage was made
            run.allow(self._allowed)
        self.say(Prepared(order.plan, planned.loaded, time.monotonic() - planned.begun))

    def _connect(self, number: int) -> None:
        planned = self._plans.get(number)
        if planned is None or planned.run is None:
            raise ConfigError(f"plan {number} isn't prepared")
        peer = planned.order.next
        if peer is not None:
            key = (peer.address, peer.key)
            found = self._nexts.get(key)
            if found is None or found.outbox.broken:
                try:
                    found = dial(peer, self.name, self.secret, self._setting.keys, planned.order.pace, self._next_says)
                except CutsetError as error:
                    raise _Unreachable(peer.name, str(error)) from None
                self._nexts[key] = found
            planned.next = found
        self.say(Ready(number))

    def _next_says(self, neighbour: Neighbour, message: Message | CutsetError) -> None:
        """From the thread that listens to the next worker: a request for a key, or why it went away."""
        if isinstance(message, KeyRequest):
            planned = self._plans.get(message.plan)
            if planned is not None and planned.run is not None and planned.next is neighbour:
                planned.run.sender.request(message)
        elif isinstance(message, CutsetError):
            for number, planned in list(self._plans.items()):
                if planned.next is neighbour:
                    self.say(Failed(number, neighbour.name, str(message)[:500]))

    def _retire(self, before: int) -> None:
        self._retired = max(self._retired, before)
        for number in [number for number in self._plans if number < before]:
            del self._plans[number]
        self._store.keep({digest for planned in self._plans.values() for digest in planned.order.weights.values()})
        used = {planned.next for planned in self._plans.values()}
        for key, neighbour in list(self._nexts.items()):
            if neighbour not in used and len(used):
                neighbour.close()
                del self._nexts[key]


class _Unreachable(LinkClosed):
    """The next worker can't be reached from here."""

    def __init__(self, party: str, reason: str) -> None:
        super().__init__(f"{party} can't be reached: {reason}")
        self.party = party
