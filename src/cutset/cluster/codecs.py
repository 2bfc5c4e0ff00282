"""Both ends of a hop: the codecs of all values that cross it, for every source."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from cutset.cluster.messages import EdgeReport, Work
from cutset.cluster.values import DTYPES, Array, Bytes, as_kept, copied
from cutset.codec import EXACT, Budget, Costs, Decoder, EdgeSpec, Encoder, KeyRequest, Payload, Verdict
from cutset.codec.changed import Changed
from cutset.errors import FrameError
from cutset.partition.node import Value

__all__ = ["Gap", "Receiver", "Sender", "channel_of"]


def channel_of(source: int, value: Value) -> EdgeSpec:
    """What the payloads of a value are about. Raises ConfigError for one that can't be sent."""
    return EdgeSpec(source, value.name, DTYPES[value.dtype], value.shape)


class Gap(Exception):
    """An item that can't be decoded. `requests` go to the sender; none for one that is only out of date."""

    def __init__(self, reason: str, requests: Sequence[KeyRequest], stale: bool) -> None:
        super().__init__(reason)
        self.requests = requests
        self.stale = stale


def _within(array: Array, value: Value) -> Bytes:
    """The bytes of a bounded value. Raises FrameError for more than it may have."""
    if array.dtype != np.uint8 or array.ndim != 1 or array.size > value.nbytes:
        raise FrameError(f"{value.name} has {array.nbytes} bytes in an item; the most is {value.nbytes}")
    return array


def _sizes(values: Iterable[str], lengths: Iterable[int]) -> list[EdgeReport]:
    """Of values that travel as they are."""
    return [EdgeReport(name, "key", size, 1.0, size, 0.0, 0.0) for name, size in zip(values, lengths, strict=True)]


class Sender:
    """The sending end. One thread at a time, but for `request`, whose list is only appended to."""

    def __init__(
        self,
        values: Sequence[Value],
        *,
        plan: int,
        epoch: int,
        deltas: bool = True,
        budget: Budget = EXACT,
        levels: int = 0,
        bandwidth: float = math.inf,
        exact: Collection[str] = (),
    ) -> None:
        """`exact` names values that no budget is for, as numbers of classes in uint8."""
        self.values = {value.name: value for value in values}
        self.plan, self.epoch = plan, epoch
        self.bandwidth = bandwidth
        self._deltas, self._exact = deltas, frozenset(exact)
        self.allow(budget, levels)
        self._encoders: dict[tuple[int, str], Encoder] = {}
        self._sequences: dict[int, int] = {}  # payloads of each source that were sent, for each of its values
        self._costs: Costs | None = None
        self._requests: list[KeyRequest] = []
        self._plain = all(value.bounded for value in values)
        for value in values:
            if not value.bounded:
                channel_of(0, value)  # refused now rather than in the middle

    def allow(self, budget: Budget, levels: int) -> None:
        """From the next item on float32 values may be off by the budget, uint8 ones by `levels`. From any thread."""
        self._budgets = {"float32": budget, "uint8": Budget(levels)}

    def request(self, wanted: KeyRequest) -> None:
        """The receiver couldn't apply a payload; heard before the next item. From any thread."""
        self._requests.append(wanted)

    def encode(
        self, source: int, number: int, values: Mapping[str, Array]
    ) -> tuple[Work, list[Bytes], list[EdgeReport]]:
        """An item's message, its arrays, and what they cost."""
        if self._plain:
            arrays = [_within(values[name], value) for name, value in self.values.items()]
            lengths = [array.size for array in arrays]
            return Work(self.plan, self.epoch, source, number, [], lengths, 0.0), arrays, _sizes(self.values, lengths)
        while self._requests:
            wanted = self._requests.pop(0)
            encoder = self._encoders.get((wanted.source, wanted.edge))
            if encoder is not None:
                encoder.request(wanted)
        sequence = self._sequences.get(source, 0)
        self._sequences[source] = sequence + 1
        payloads: list[Payload] = []
        arrays = []
        plain: list[Bytes] = []
        reports = []
        budgets = self._budgets
        for name, value in self.values.items():
            if value.bounded:
                plain.append(_within(values[name], value))
                reports.append(EdgeReport(name, "key", plain[-1].size, 1.0, plain[-1].size, 0.0, 0.0))
                continue
            encoder = self._encoder(source, name)
            encoder.bandwidth = self.bandwidth
            encoder.budget = EXACT if name in self._exact else budgets.get(self.values[name].dtype, EXACT)
            made = encoder.encode(as_kept(values[name], self.values[name]), sequence)
            payloads.append(made.payload)
            arrays += made.arrays
            size = encoder.spec.elements
            reports.append(EdgeReport(name, made.payload.kind, made.nbytes, made.changed, size, made.seconds, 0.0))
        arrays += plain
        lengths = [array.size for array in arrays]
        return Work(self.plan, self.epoch, source, number, payloads, lengths, 0.0), arrays, reports

    def _encoder(self, source: int, name: str) -> Encoder:
        encoder = self._encoders.get((source, name))
        if encoder is None:
            channel = channel_of(source, self.values[name])
            encoder = self._encoders[source, name] = Encoder(
                channel, plan=self.plan, epoch=self.epoch, deltas=self._deltas, costs=self._costs
            )
            self._costs = encoder.costs
        return encoder


class Receiver:
    """The receiving end. One thread at a time."""

    def __init__(self, values: Sequence[Value], *, plan: int, watch: bool = False) -> None:
        """`watch`: notes what changes, for `changed`."""
        self.values = {value.name: value for value in values}
        self.plan = plan
        self._watch = watch
        self._changed: dict[int, dict[str, Changed]] = {}  # of each source, since it was last asked for
        # Bytes of an item: no sender needs more.
        self.limit = sum(value.nbytes if value.bounded else 3 * value.nbytes // 2 + 1024 for value in values)
        self._coded = [value.name for value in values if not value.bounded]
        self._bounded = [value for value in values if value.bounded]
        self._decoders: dict[tuple[int, str], Decoder] = {}

    def decode(self, work: Work, arrays: Sequence[Bytes]) -> tuple[dict[str, Array], list[EdgeReport]]:
        """The item's values, by name. Raises Gap where one can't be had, FrameError for what isn't right."""
        if not self._coded and not work.payloads and len(arrays) == len(self._bounded):
            found = {one.name: _within(array, one) for one, array in zip(self._bounded, arrays, strict=True)}
            return found, _sizes(found, (array.size for array in arrays))
        if [payload.edge for payload in work.payloads] != self._coded:
            raise FrameError("an item came with other values than the plan says")
        expected = {(work.source, self.plan, payload.sequence) for payload in work.payloads[:1]}
        if {(payload.source, payload.plan, payload.sequence) for payload in work.payloads} != expected:
            raise FrameError("an item came with payloads of another one")
        values: dict[str, Array] = {}
        requests: list[KeyRequest] = []
        reports, stale, at = [], 0, 0
        for payload in work.payloads:
            start = time.perf_counter()
            decoder = self._decoder(work.source, payload.edge)
            count = 1 if payload.encoding == "dense" else 2
            verdict, tensor, changed = decoder.decode(payload, arrays[at : at + count])
            if changed is not None and self._watch:
                own = self._changed.setdefault(work.source, {})
                before = own.get(payload.edge)
                own[payload.edge] = changed.copy() if before is None else before | changed
            taken = arrays[at : at + count]
            at += count
            if verdict is Verdict.NEED_KEY:
                requests.append(decoder.key_request())
            stale += verdict is Verdict.STALE
            if tensor is not None:
                values[payload.edge] = copied(tensor, self.values[payload.edge])
            elements, nbytes = decoder.spec.elements, sum(array.size for array in taken)
            share = payload.count / max(elements, 1)
            seconds = time.perf_counter() - start
            reports.append(EdgeReport(payload.edge, payload.kind, nbytes, share, elements, 0.0, seconds))
        if at + len(self._bounded) != len(arrays):
            raise FrameError("an item came with more arrays, or fewer, than its values have")
        for value, array in zip(self._bounded, arrays[at:], strict=True):
            values[value.name] = _within(array, value)
            reports.append(EdgeReport(value.name, "key", array.size, 1.0, array.size, 0.0, 0.0))
        if len(values) < len(self.values):
            raise Gap("a payload before it was lost", requests, stale == len(work.payloads))
        return values, reports

    def changed(self, source: int) -> dict[str, Changed]:
        """What was replaced of each value since this was last asked, whatever became of the items between."""
        return self._changed.pop(source, {})

    def _decoder(self, source: int, name: str) -> Decoder:
        decoder = self._decoders.get((source, name))
        if decoder is None:
            channel = channel_of(source, self.values[name])
            decoder = self._decoders[source, name] = Decoder(channel, plan=self.plan)
        return decoder
