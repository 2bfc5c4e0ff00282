"""Both ends of a hop: the codecs of all values that cross it, for every source."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutset.cluster.messages import EdgeReport, Work
from cutset.codec import EXACT, Budget, Costs, Decoder, EdgeSpec, Encoder, KeyRequest, Payload, Verdict
from cutset.errors import FrameError
from cutset.partition.node import Value

__all__ = ["Gap", "Receiver", "Sender", "channel_of", "to_array", "to_result", "to_tensor"]

Bytes = NDArray[np.uint8]

# numpy's names of torch's dtypes; those that numpy hasn't, or payloads don't carry, travel as their bits.
DTYPES = {"bool": "u1", "bfloat16": "<u2", "uint8": "u1", "int8": "i1", "int16": "<i2", "int32": "<i4"} | {
    "int64": "<i8",
    "float16": "<f2",
    "float32": "<f4",
    "float64": "<f8",
}
BITS = {"bool": torch.uint8, "bfloat16": torch.uint16}


def channel_of(source: int, value: Value) -> EdgeSpec:
    """What the payloads of a value are about. Raises ConfigError for one that can't be sent."""
    return EdgeSpec(source, value.name, DTYPES[value.dtype], value.shape)


def to_array(tensor: Tensor) -> NDArray[Any]:
    """The tensor as payloads carry it: row-major, without a copy where it lies so already."""
    name = str(tensor.dtype).removeprefix("torch.")
    tensor = tensor.detach().cpu().contiguous()
    array: NDArray[Any] = (tensor.view(BITS[name]) if name in BITS else tensor).numpy()
    return array


def to_result(tensor: Tensor) -> NDArray[Any]:
    """The tensor for whoever reads it: of its own dtype, but bfloat16, which numpy hasn't, as float32 of its value."""
    tensor = tensor.detach().cpu().contiguous()
    array: NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def to_tensor(array: NDArray[Any], value: Value) -> Tensor:
    """A copy of what a decoder holds, or of a picture. torch allocates it: products may depend on the alignment."""
    tensor = torch.empty(value.shape, dtype=getattr(torch, value.dtype))
    np.copyto((tensor.view(BITS[value.dtype]) if value.dtype in BITS else tensor).numpy(), _bits(array, value))
    return tensor


def _bits(array: NDArray[Any], value: Value) -> NDArray[Any]:
    """A picture as payloads carry it."""
    return array.view(DTYPES[value.dtype]) if array.dtype.name == value.dtype and value.dtype in BITS else array


class Gap(Exception):
    """A picture that can't be decoded. `requests` go to the sender; none for one that is only out of date."""

    def __init__(self, reason: str, requests: Sequence[KeyRequest], stale: bool) -> None:
        super().__init__(reason)
        self.requests = requests
        self.stale = stale


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
        self._costs: Costs | None = None
        self._requests: list[KeyRequest] = []
        for value in values:
            channel_of(0, value)  # refused now rather than in the middle

    def allow(self, budget: Budget, levels: int) -> None:
        """From the next picture on float32 values may be off by the budget, uint8 pictures by `levels`. Any thread."""
        self._budgets = {"float32": budget, "uint8": Budget(levels)}

    def request(self, wanted: KeyRequest) -> None:
        """The receiver couldn't apply a payload; heard before the next picture. From any thread."""
        self._requests.append(wanted)

    def encode(
        self, source: int, picture: int, ticket: int, tensors: Mapping[str, NDArray[Any]]
    ) -> tuple[Work, list[Bytes], list[EdgeReport]]:
        """A picture's message, its arrays, and what they cost. Tickets rise, source by source."""
        while self._requests:
            wanted = self._requests.pop(0)
            encoder = self._encoders.get((wanted.source, wanted.edge))
            if encoder is not None:
                encoder.request(wanted)
        payloads: list[Payload] = []
        arrays: list[Bytes] = []
        reports = []
        budgets = self._budgets
        for name in self.values:
            encoder = self._encoder(source, name)
            encoder.bandwidth = self.bandwidth
            encoder.budget = EXACT if name in self._exact else budgets.get(self.values[name].dtype, EXACT)
            made = encoder.encode(_bits(tensors[name], self.values[name]), ticket)
            payloads.append(made.payload)
            arrays += made.arrays
            size = encoder.spec.elements
            reports.append(EdgeReport(name, made.payload.kind, made.nbytes, made.changed, size, made.seconds, 0.0))
        lengths = [array.size for array in arrays]
        return Work(self.plan, self.epoch, source, picture, ticket, payloads, lengths, 0.0), arrays, reports

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

    def __init__(self, values: Sequence[Value], *, plan: int) -> None:
        self.values = {value.name: value for value in values}
        self.plan = plan
        self.limit = sum(3 * value.nbytes // 2 + 1024 for value in values)  # bytes of a picture: no sender needs more
        self._decoders: dict[tuple[int, str], Decoder] = {}

    def decode(self, work: Work, arrays: Sequence[Bytes]) -> tuple[dict[str, Tensor], list[EdgeReport]]:
        """The picture's tensors, by name. Raises Gap where one can't be had, FrameError for what isn't right."""
        if [payload.edge for payload in work.payloads] != list(self.values):
            raise FrameError("a picture came with other values than the plan says")
        if any((p.source, p.plan, p.sequence) != (work.source, self.plan, work.ticket) for p in work.payloads):
            raise FrameError("a picture came with payloads of another one")
        tensors: dict[str, Tensor] = {}
        requests: list[KeyRequest] = []
        reports, stale, at = [], 0, 0
        for payload in work.payloads:
            start = time.perf_counter()
            decoder = self._decoder(work.source, payload.edge)
            count = 1 if payload.encoding == "dense" else 2
            verdict, tensor, _ = decoder.decode(payload, arrays[at : at + count])
            taken = arrays[at : at + count]
            at += count
            if verdict is Verdict.NEED_KEY:
                requests.append(decoder.key_request())
            stale += verdict is Verdict.STALE
            if tensor is not None:
                tensors[payload.edge] = to_tensor(tensor, self.values[payload.edge])
            elements, nbytes = decoder.spec.elements, sum(array.size for array in taken)
            share = payload.count / max(elements, 1)
            seconds = time.perf_counter() - start
            reports.append(EdgeReport(payload.edge, payload.kind, nbytes, share, elements, 0.0, seconds))
        if at != len(arrays):
            raise FrameError("a picture came with more arrays than its payloads have")
        if len(tensors) < len(work.payloads):
            raise Gap("a payload before it was lost", requests, stale == len(work.payloads))
        return tensors, reports

    def _decoder(self, source: int, name: str) -> Decoder:
        decoder = self._decoders.get((source, name))
        if decoder is None:
            channel = channel_of(source, self.values[name])
            decoder = self._decoders[source, name] = Decoder(channel, plan=self.plan)
        return decoder
