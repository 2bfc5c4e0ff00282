"""The sending end of an edge. It holds what the receiver holds, and sends what differs.

How a payload is encoded follows from measured costs: bytes over the link's bandwidth, and the seconds of both ends.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from cutset.codec.budget import EXACT, Budget
from cutset.codec.compression import Compressor, available
from cutset.codec.costs import Costs, kernels, measured
from cutset.codec.packing import Packer, Unpacked
from cutset.codec.payload import DType, EdgeSpec, KeyRequest, Payload
from cutset.errors import ConfigError
from cutset.kernels.reference_delta import bits

__all__ = ["Encoded", "Encoder"]

Tensor = np.ndarray[Any, Any]
Bytes = NDArray[np.uint8]

MANY = 0.3  # a share of changed elements above which a key may be smaller, for all the zeros
HOPELESS = 0.97  # a share of changed elements, in a sample, at which a delta isn't tried
SMALL = 1 << 20  # bytes of a tensor of which to encode all costs hardly more than to look at a sample
BLOCKS, BLOCK = 64, 64  # of the sample, in elements
GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True)
class Encoded:
    """A payload, ready to be sent. The arrays are the receiver's from now on: the encoder doesn't touch them again."""

    payload: Payload
    arrays: tuple[Bytes, ...]
    changed: float  # the share of elements that changed; 1 for a key that was asked for
    seconds: float  # that encoding took

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.size for array in self.arrays)


class Encoder:
    """The sending end of an edge. One thread at a time.

    `bandwidth` is the link's, bytes a second (infinite: between threads or over shared memory). It and `budget` may be
    replaced at any time, and hold from the next payload on. `deltas=False` sends keys only and holds nothing.
    `compressor`: "best" of those installed here (the receiver must have it too), None for never. A payload that was
    encoded must be sent, in order; if one wasn't, call `lost()`. `costs` may be shared by the encoders of one thread.
    """

    def __init__(
        self,
        spec: EdgeSpec,
        *,
        plan: int = 0,
        epoch: int = 0,
        bandwidth: float = math.inf,
        budget: Budget = EXACT,
        deltas: bool = True,
        compressor: Compressor | Literal["best"] | None = "best",
        costs: Costs | None = None,
    ) -> None:
        budget.check(spec.dtype)
        if not bandwidth > 0:
            raise ConfigError(f"edge {spec.edge}: a bandwidth must be above 0, not {bandwidth}")
        self.spec = spec
        self.plan = plan
        self.epoch = epoch
        self.bandwidth = bandwidth
        self.budget = budget
        self.costs = measured() if costs is None else costs
        self._deltas = deltas
        self._packer = Packer(self.costs, available()[0] if compressor == "best" else compressor)
        self._dtype = np.dtype(spec.dtype)
        self._held: Tensor | None = None
        self._sequence: int | None = None
        self._key: int | None = None

    def lost(self) -> None:
        """What was encoded last didn't get through: the next payload is a key."""
        self._key = None

    def request(self, wanted: KeyRequest) -> bool:
        """Takes the receiver's request. False where it is out of date: another epoch, or a key went out since."""
        if (wanted.plan, wanted.epoch) != (self.plan, self.epoch):
            return False
        if self._key is None or wanted.sequence <= self._key:
            return False
        self._key = None
        return True

    def encode(self, tensor: Tensor, sequence: int) -> Encoded:
        """The payload that brings the receiver to `tensor`; `sequence`, the item's number, rises.

        Raises ConfigError for a tensor of another shape or dtype than the spec's.
        """
        start = time.perf_counter()
        spec, budget = self.spec, self.budget
        if tensor.shape != spec.shape or tensor.dtype != self._dtype:
            raise ConfigError(
                f"edge {spec.edge}: a tensor {tensor.dtype} {list(tensor.shape)} doesn't fit, the edge carries "
                f"{spec.dtype} {list(spec.shape)}; a plan is for items of one size"
            )
        if self._sequence is not None and sequence <= self._sequence:
            raise ConfigError(f"edge {spec.edge}: item {sequence} after item {self._sequence}")
        budget.check(spec.dtype)
        fresh, wire = _for_wire(np.ascontiguousarray(tensor), budget, spec.dtype)
        # Until all of it is done: whatever goes wrong on the way, the next payload is a key.
        key, self._key = self._key, None
        parts = None
        share = 1.0
        if self._held is not None and key is not None:
            sure = budget.threshold or fresh.nbytes < SMALL
            if sure or _share(bits(self._held), bits(fresh)) < HOPELESS:
                parts = self._delta(self._held, fresh, wire)
            else:
                self._hold(fresh)
            if parts is not None:
                share = parts.count / max(spec.elements, 1)
        elif self._deltas:
            self._hold(fresh)
        if parts is None or share > MANY:
            parts = self._key_parts(fresh, parts, wire)
            if parts.key and share < 1:
                # Not what was held: that may be in float32 what the wire would round.
                self._hold(fresh)
        base = None if parts.key else self._sequence
        if parts.key or key is None:
            key = sequence
        self._packer.bandwidth = self.bandwidth
        packed = self._packer.pack(parts, spec.dtype, wire)
        payload = Payload(
            kind="key" if parts.key else "delta",
            source=spec.source,
            edge=spec.edge,
            plan=self.plan,
            epoch=self.epoch,
            sequence=sequence,
            base=base,
            key=key,
            dtype=cast(DType, spec.dtype),
            shape=spec.shape,
            encoding="dense" if parts.mask is None else "bits",
            wire=cast(DType, wire),
            count=parts.count,
            compression=packed.compression,
            values=packed.values,
        )
        self._sequence, self._key = sequence, key
        return Encoded(payload, packed.arrays, share, time.perf_counter() - start)

    def _hold(self, fresh: Tensor) -> None:
        if self._held is None:
            self._held = fresh.copy()
        else:
            np.copyto(self._held, fresh)

    def _delta(self, held: Tensor, fresh: Tensor, wire: str) -> Unpacked | None:
        """What changed, and `held` brought up to it; None where so much changed that a dense key is smaller."""
        bits_in_values = -(-fresh.size // (8 * np.dtype(wire).itemsize))  # the mask's size, in values
        mask, values = _room(fresh, fresh.size - bits_in_values)
        start = time.perf_counter()
        kernel, threshold, old = kernels(), self.budget.threshold, None
        self._packer.bandwidth = self.bandwidth
        apart = self._packer.compresses and wire == self.spec.dtype  # what is replaced may be of use
        count = (kernel.delta_compare if apart else kernel.delta_encode)(held, fresh, mask, values, threshold)
        if count < 0:
            self._hold(fresh)
            return None
        room, values = values.size, values[: count * fresh.itemsize]
        if 2 * values.size < room:  # what waits to be sent shouldn't hold on to all of that
            values = values.copy()
        if apart:
            old = np.empty_like(values)
            kernel.delta_gather(held, mask, old)
            kernel.delta_decode(held, mask, values)
        self.costs.learn_encode("bits", fresh.nbytes, time.perf_counter() - start)
        return Unpacked(False, count, mask, values, old)

    def _key_parts(self, held: Tensor, delta: Unpacked | None, wire: str) -> Unpacked:
        """The cheapest of: the delta, if there is one; all of the tensor; its elements that aren't zero."""
        width, mask_bytes, bandwidth = np.dtype(wire).itemsize, held.size / 8, self.bandwidth
        costs, dense = self.costs, held.nbytes
        best, parts = costs.seconds("dense", dense) + held.size * width / bandwidth, None
        if delta is not None:
            here = costs.decode.get("bits", 0.0) * dense + (delta.count * width + mask_bytes) / bandwidth
            if here < best:
                best, parts = here, delta
        there = _share(bits(held), None) * held.size
        if costs.seconds("bits", dense) + (there * width + mask_bytes) / bandwidth < best:
            mask, values = _room(held, held.size - math.ceil(mask_bytes / width))
            count = kernels().delta_encode(None, held, mask, values)
            if count >= 0:
                return Unpacked(True, count, mask, values[: count * held.itemsize])
        # A copy, because the encoder or the caller goes on writing to it.
        return parts or Unpacked(True, held.size, None, bits(held).copy().view(np.uint8))


def _room(tensor: Tensor, most: int) -> tuple[Bytes, Bytes]:
    """A mask, and room for `most` values. Memory that isn't written is not taken from the machine."""
    return np.empty((tensor.size + 7) // 8, np.uint8), np.empty(most * tensor.itemsize, np.uint8)


def _share(a: Tensor, b: Tensor | None) -> float:
    """The share of elements that differ, or aren't zero, in a sample of two tensors' bits."""
    places = _places(a.size)
    return float(np.mean(a[places] != (0 if b is None else b[places]))) if a.size else 0.0


@lru_cache(maxsize=64)
def _places(size: int) -> NDArray[np.int64]:
    """What the sample takes: blocks in equal parts of the tensor, each in another place of its part.

    Were it the same place, a tensor with as many channels as blocks would be judged by one spot of the picture.
    """
    step = size // BLOCKS
    if step <= BLOCK:
        return np.arange(size)
    numbers = np.arange(BLOCKS)
    starts = numbers * step + (numbers * GOLDEN % 1 * (step - BLOCK)).astype(np.int64)
    return (starts[:, np.newaxis] + np.arange(BLOCK)).reshape(-1)


def _for_wire(tensor: Tensor, budget: Budget, dtype: str) -> tuple[Tensor, str]:
    """The tensor as the receiver shall have it, and the dtype of its values on the link."""
    if not budget.half:
        return tensor, dtype
    with np.errstate(over="ignore"):
        short = tensor.astype("<f2")
    if (np.isinf(short) & np.isfinite(tensor)).any():
        return tensor, dtype
    return short.astype(dtype), "<f2"
