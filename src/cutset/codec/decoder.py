"""The receiving end of an edge: applies payloads to the tensor it holds, and knows when it can't."""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cutset.codec.changed import Changed
from cutset.codec.compression import decompress
from cutset.codec.costs import Costs, kernels
from cutset.codec.packing import from_change
from cutset.codec.payload import Compression, EdgeSpec, KeyRequest, Payload, check
from cutset.errors import FrameError
from cutset.kernels.reference_delta import bits

__all__ = ["Decoder", "Update", "Verdict"]

Tensor = np.ndarray[Any, Any]
Bytes = NDArray[np.uint8]


class Verdict(Enum):
    """What a decoder did with a payload."""

    APPLIED = "applied"
    STALE = "stale"  # a duplicate, or of an earlier plan or epoch: drop it
    AHEAD = "ahead"  # of a plan that this side doesn't know yet: keep it (a copy) until that comes
    NEED_KEY = "need key"  # can't be applied: send `key_request()`
    WAITING = "waiting"  # can't be applied either; a key has been asked for


class Update(NamedTuple):
    """What became of a payload. `tensor` and `changed` are there where it was applied, None for any other verdict."""

    verdict: Verdict
    tensor: Tensor | None = None  # as `Decoder.tensor`
    changed: Changed | None = None  # since the payload that was applied before


class Decoder:
    """The receiving end of an edge. One thread at a time.

    `tensor` is what the sender's budget allows of the true tensor of item `sequence`; None before the first key and
    after damage. Layers must not write to it. `costs.decode` has the seconds that decoding took here, for the sender.
    """

    def __init__(self, spec: EdgeSpec, *, plan: int = 0) -> None:
        self.spec = spec
        self.plan = plan
        self.epoch = 0
        self.sequence: int | None = None
        self.costs = Costs()
        self._held: Tensor | None = None
        self._shown: Tensor | None = None  # the same memory, read-only
        self._asked: KeyRequest | None = None

    @property
    def tensor(self) -> Tensor | None:
        """The tensor, read-only; it changes with the next payload."""
        return None if self.sequence is None else self._shown

    def decode(self, payload: Payload, arrays: Sequence[Tensor]) -> Update:
        """Applies a payload, also that of an item that is dropped: the next delta counts on it.

        Where it was applied, the update has the tensor and which of its elements were replaced. Nothing is copied or
        computed for that: the mask is the payload's own, and lies in `arrays` where it came uncompressed.

        Raises FrameError for a payload that isn't right; the tensor stays as it was, or is gone, and the next delta
        needs a key.
        """
        start = time.perf_counter()
        sizes = check(payload, arrays, self.spec)
        if payload.plan != self.plan:
            return Update(Verdict.STALE if payload.plan < self.plan else Verdict.AHEAD)
        if payload.epoch < self.epoch:
            return Update(Verdict.STALE)
        if payload.epoch == self.epoch and self.sequence is not None and payload.sequence <= self.sequence:
            return Update(Verdict.STALE)
        if payload.kind == "delta" and (payload.epoch != self.epoch or payload.base != self.sequence):
            return Update(self._ask(payload))
        parts = [
            self._decompressed(name, array, size)
            for array, name, size in zip(arrays, payload.compression, sizes, strict=True)
        ]
        if payload.wire != payload.dtype:
            parts[-1] = parts[-1].view(payload.wire).astype(payload.dtype).view(np.uint8)
        self._apply(payload, parts)
        self.epoch, self.sequence = payload.epoch, payload.sequence
        if payload.kind == "key":  # its mask names what isn't zero, not what changed
            self._asked = None
            changed = Changed(self.spec.shape, self.spec.elements, None)
        else:
            changed = Changed(self.spec.shape, payload.count, parts[0])
        self.costs.learn_decode(payload.encoding, self.spec.nbytes, time.perf_counter() - start)
        return Update(Verdict.APPLIED, self.tensor, changed)

    def key_request(self) -> KeyRequest:
        """What to send to the sender after NEED_KEY."""
        if self._asked is None:
            raise RuntimeError("no key is needed")
        return self._asked

    def reset(self) -> None:
        """Forgets everything, as after a restart."""
        self.sequence = self._asked = self._held = self._shown = None
        self.epoch = 0

    def _ask(self, payload: Payload) -> Verdict:
        asked = self._asked
        # A delta that builds on a later key than the one that was asked for: that key was lost, so ask again.
        if asked is not None and payload.epoch <= asked.epoch and payload.key <= asked.sequence:
            return Verdict.WAITING
        spec = self.spec
        self._asked = KeyRequest(spec.source, spec.edge, payload.plan, payload.epoch, payload.sequence)
        return Verdict.NEED_KEY

    def _decompressed(self, name: Compression, array: Bytes, size: int) -> Bytes:
        start = time.perf_counter()
        if name == "none":
            return array
        if name == "nested":
            plain = np.empty(size, np.uint8)
            if not kernels().mask_unnest(array, plain):
                raise FrameError(f"edge {self.spec.edge}: a nested mask that is none")
        else:
            plain = decompress(name, array, size)
        self.costs.learn_decode(name, size, time.perf_counter() - start)
        return plain

    def _apply(self, payload: Payload, parts: Sequence[Bytes]) -> None:
        if self._held is None:
            self._held = np.zeros(self.spec.shape, self.spec.dtype)
            self._shown = self._held.view()
            self._shown.flags.writeable = False
        if payload.encoding == "dense":
            bits(self._held).view(np.uint8)[...] = parts[0]
            return
        if payload.kind == "key":
            self.sequence = None  # until all of it is there
            self._held.fill(0)
        if payload.values == "change":
            mask, change = parts
            old = np.empty_like(change)
            if kernels().delta_gather(self._held, mask, old):
                raise self._wrong(payload)
            parts = [mask, from_change(change, old, self._held.itemsize)]
        code = kernels().delta_decode(self._held, *parts)
        if code == 2:
            self.sequence = None
        if code:
            raise self._wrong(payload)

    def _wrong(self, payload: Payload) -> FrameError:
        return FrameError(f"edge {self.spec.edge}: a payload whose mask doesn't name {payload.count} values")
