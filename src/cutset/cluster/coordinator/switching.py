"""A plan on its way from being made to being used: every stage prepares, then every worker dials the next one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

from cutset.cluster.codecs import Receiver, Sender
from cutset.cluster.coordinator.links import Links
from cutset.cluster.coordinator.remote import Remote
from cutset.cluster.inputs import InputEncoder, Inputs, SourceItem
from cutset.cluster.messages import Connect, EdgeReport, Peer, Prepare, Work
from cutset.cluster.model import Model
from cutset.cluster.values import Bytes
from cutset.codec import Budget
from cutset.errors import ConfigError, CutsetError
from cutset.partition.hop import Hop
from cutset.partition.plan import COORDINATOR, Plan, write_plan

__all__ = ["Options", "Route", "Switch"]


@dataclass(frozen=True)
class Options:
    """How items travel, whatever the plan. Seconds and bytes a second. Raises ConfigError for what contradicts."""

    deltas: bool = True
    in_flight: int = 4
    budget: Budget = field(default_factory=Budget)  # of activations
    levels: int = 0  # that uint8 inputs may be off by
    delta_scale: float | None = None  # stages compute what changed alone, with so many times their thresholds
    delta_factors: Mapping[str, float] = field(default_factory=dict)  # of the thresholds of single values, by name
    deadline: float | None = None  # seconds after capture, when an item is dropped
    rate: float | None = None  # items a second of each source
    deadlines: tuple[float | None, ...] = ()  # of each source, in order, where it has one of its own
    rates: tuple[float | None, ...] = ()
    profile: bool = False  # workers report the seconds of every layer
    silence: float = 3.0  # without a heartbeat, after which a worker counts as dead
    beat: float = 0.25  # between two pings
    gather: float = 5.0  # at the start, until plans are made with those who are there
    patience: float = 20.0  # without any worker, after which the run ends
    late: float = 120.0  # that an item may be in flight before something counts as broken
    prepare: float = 120.0  # that workers may take to get ready, from when the last of their weights left here
    # Workers keep of an item what later ones need. An item can't be sent again then: when a plan ends, its items are
    # dropped, and whoever gave them hears of a `StateLost`.
    stateful: bool = False
    # The input of an item goes straight to every stage that reads it, not from stage to stage, where it is bounded: so
    # a stage can get ready for an item before the values of the stage before are there.
    direct: bool = False

    def __post_init__(self) -> None:
        if not self.deltas and (self.budget.threshold or self.levels):
            raise ConfigError(
                "a threshold and levels leave out what changed little, and the mode full sends all: choose the mode "
                "delta, or float16"
            )

    def deadline_of(self, source: int) -> float | None:
        """Of the items of a source."""
        own = self.deadlines[source] if source < len(self.deadlines) else None
        return self.deadline if own is None else own

    def rate_of(self, source: int) -> float | None:
        """Items a second of a source."""
        own = self.rates[source] if source < len(self.rates) else None
        return self.rate if own is None else own


class Route:
    """A plan in use: the coordinator's end of its first and of its last hop."""

    def __init__(
        self,
        number: int,
        epoch: int,
        plan: Plan,
        model: Model,
        remotes: list[Remote],
        options: Options,
        inputs: Inputs,
    ) -> None:
        self.number, self.epoch, self.plan = number, epoch, plan
        self.remotes, self._links = remotes, [remote.links for remote in remotes]
        self.direct = options.direct and model.input.bounded and not plan.input
        hops, reads = plan.edges(model.graph, direct=self.direct), plan.readers(model.graph)
        # Those that get the input, too, beside the first.
        self.also = [one for one, own in zip(remotes[1:], reads[1:], strict=True) if own and self.direct]
        self.sender = Sender(
            [model.graph.values[name] for name in hops[0]], plan=number, epoch=epoch, deltas=options.deltas
        )
        self.allow(options)
        self._input = model.input
        self.settings = inputs.settings(plan.input) if plan.input else b""  # for the first worker
        self._encoder: InputEncoder | None = inputs.encoder(plan.input, model.input) if plan.input else None
        self.receiver = Receiver([model.graph.values[name] for name in hops[-1]], plan=number)
        self.nbytes = [sum(model.graph.values[name].nbytes for name in hop) for hop in hops]  # of each hop, at most
        if self._encoder is not None:
            self.nbytes[0] = self._encoder.limit

    def allow(self, options: Options) -> None:
        """What the inputs that the first worker gets may be off by."""
        self.sender.allow(Budget(), options.levels)

    def encode(self, source: int, number: int, given: SourceItem) -> tuple[Work, list[Bytes], list[EdgeReport]]:
        """An item's message to the first worker, its arrays, and what they cost."""
        if self._encoder is None:
            return self.sender.encode(source, number, {self._input.name: given.array})
        start = time.perf_counter()
        head, arrays = self._encoder.encode(source, number, given)
        lengths = [array.size for array in arrays]
        work = Work(self.number, self.epoch, source, number, [], lengths, 0.0, head)
        seconds = time.perf_counter() - start
        edge = EdgeReport(self._input.name, "input", sum(lengths), 1.0, given.array.size, seconds, 0.0)
        return work, arrays, [edge]

    @property
    def first(self) -> Remote:
        """The worker of the first stage."""
        return self.remotes[0]

    @property
    def last(self) -> Remote:
        """The worker of the last stage."""
        return self.remotes[-1]

    def sender_to(self, party: str) -> str:
        """Who sends items to this party; "" where the route doesn't pass it."""
        return next((sender for sender, receiver in self.connections if receiver == party), "")

    @property
    def connections(self) -> list[tuple[str, str]]:
        """Sender and receiver of each hop, in the order in which items pass them."""
        return list(pairwise([COORDINATOR, *(remote.name for remote in self.remotes), COORDINATOR]))

    @property
    def whole(self) -> bool:
        """Every worker still has the link over which it was prepared."""
        return all(r.up and r.links == link for r, link in zip(self.remotes, self._links, strict=True))


def _dialled(worker: Remote, by: Remote) -> Peer:
    return Peer(worker.name, worker.address, worker.key)


class Switch:
    """Orders the workers of a route to prepare. `ready` once all are. `peer` is a worker as another one dials it."""

    def __init__(
        self,
        route: Route,
        model: Model,
        options: Options,
        paces: Mapping[tuple[str, str], Hop],
        links: Links,
        peer: Callable[[Remote, Remote], Peer] = _dialled,
    ) -> None:
        self.route, self._peer = route, peer
        self._waiting = {remote.name for remote in route.remotes}
        self._before = self._carried = sum(remote.carried for remote in route.remotes)
        self._moved, self._frames = time.monotonic(), 0
        self._connecting = False
        self.ready = False
        self._prepare(model, options, paces, links)

    @property
    def waiting(self) -> list[str]:
        """The workers that haven't answered."""
        return sorted(self._waiting)

    @property
    def expected(self) -> float:
        """Seconds that orders and answers take on emulated links."""
        return sum(2 * remote.emulated for remote in self.route.remotes)

    @property
    def weights(self) -> tuple[int, int]:
        """Frames of weights that have left, and how many were asked for."""
        return sum(remote.carried for remote in self.route.remotes) - self._before, self._frames

    def stands_still(self, now: float) -> float:
        """Seconds since the last sign that somebody gets ready: an answer, or weights that leave."""
        carried = sum(remote.carried for remote in self.route.remotes)
        if carried != self._carried:
            self._carried, self._moved = carried, now
        return now - self._moved

    def _prepare(
        self,
        model: Model,
        options: Options,
        paces: Mapping[tuple[str, str], Hop],
        links: Links,
    ) -> None:
        route = self.route
        # How a stage computes its worker is told by its delta scale; earlier ones don't know the plan's word for it.
        text = write_plan(replace(route.plan, stages=tuple(replace(one, dense=False) for one in route.plan.stages)))
        for i, (stage, remote) in enumerate(zip(route.plan.stages, route.remotes, strict=True)):
            after = route.remotes[i + 1] if i + 1 < len(route.remotes) else None
            before = route.remotes[i - 1].key if i else None
            to = after.name if after is not None else COORDINATOR
            remote.say(
                Prepare(
                    plan=route.number,
                    epoch=route.epoch,
                    name=remote.name,
                    graph=model.digest,
                    description=remote.description(model),
                    stages=text,
                    weights={name: model.weight_digest(name) for name in model.graph.weights_of(stage.nodes)},
                    next=None if after is None else self._peer(after, remote),
                    previous=before,
                    in_flight=options.in_flight,
                    deltas=options.deltas,
                    threshold=options.budget.threshold,
                    half=options.budget.half,
                    levels=options.levels,
                    bandwidth=links.bandwidth(remote.name, to),
                    profile=options.profile,
                    pace=paces.get((remote.name, to)) if after is not None else None,
                    back=paces.get((remote.name, COORDINATOR)),
                    inputs=route.settings if i == 0 else b"",
                    delta_scale=None if stage.dense else options.delta_scale,
                    direct=route.direct,
                    delta_factors=dict(options.delta_factors),
                )
            )

    def prepared(self, name: str) -> None:
        """A worker has its stage. When all have, they get the order to connect."""
        self._moved = time.monotonic()
        if not self._connecting:
            self._waiting.discard(name)
            if not self._waiting:
                self._connecting = True
                self._waiting = {remote.name for remote in self.route.remotes}
                for remote in self.route.remotes:
                    remote.say(Connect(self.route.number))

    def connected(self, name: str) -> None:
        """A worker has dialled the next one."""
        self._moved = time.monotonic()
        if self._connecting:
            self._waiting.discard(name)
            self.ready = not self._waiting

    def send_weights(self, model: Model, remote: Remote, names: list[str], size: int) -> int:
        """Sends a worker what it misses, `size` bytes a frame; bytes. Raises CutsetError for what isn't the model's."""
        sent = 0
        for name in names:
            if name not in model.graph.weights:
                raise CutsetError(f"{remote.name} asks for a weight that the model hasn't: {name[:80]}")
            remote.outbox.bulk(model.weight_frames(name, size))
            nbytes = model.graph.weights[name].nbytes
            sent, self._frames = sent + nbytes, self._frames + -(-nbytes // size)
        return sent
