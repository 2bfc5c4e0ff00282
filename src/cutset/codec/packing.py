"""From what changed to the arrays of a payload: each part as it costs least."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cutset.codec.compression import Compressor, compress
from cutset.codec.costs import Costs, Ratio, kernels
from cutset.codec.payload import Compression
from cutset.kernels.reference_delta import nested_room

__all__ = ["Packed", "Packer", "Unpacked", "from_change", "to_change"]

Bytes = NDArray[np.uint8]

PROBE_EVERY = 16  # payloads
PROBE_BYTES = 1 << 16  # of each array
LEAST = 64  # bytes; less isn't made smaller


@dataclass(slots=True)
class Unpacked:
    """A payload before its arrays are packed; without a mask it is dense."""

    key: bool
    count: int
    mask: Bytes | None
    values: Bytes
    old: Bytes | None = None  # what the values replace, where that is known


@dataclass(slots=True)
class Packed:
    """The arrays of a payload, and what its header says of them."""

    arrays: tuple[Bytes, ...]
    compression: tuple[Compression, ...]
    values: Literal["plain", "change"]


def to_change(new: Bytes, old: Bytes, width: int) -> Bytes:
    """new - old as unsigned integers of `width` bytes, modulo their range; first all lowest bytes, then the next."""
    change: Any = new.view(f"<u{width}") - old.view(f"<u{width}")
    return change if width == 1 else np.ascontiguousarray(change.view(np.uint8).reshape(-1, width).T).reshape(-1)


def from_change(change: Bytes, old: Bytes, width: int) -> Bytes:
    """`new` again: the exact inverse."""
    whole = change if width == 1 else np.ascontiguousarray(change.reshape(width, -1).T).reshape(-1)
    new: Bytes = (whole.view(f"<u{width}") + old.view(f"<u{width}")).view(np.uint8)
    return new


class Packer:
    """Packs the payloads of one edge, and learns how small their parts become.

    `bandwidth` is the link's, bytes a second; set it before.
    """

    def __init__(self, costs: Costs, compressor: Compressor | None) -> None:
        self.bandwidth = math.inf
        self._costs = costs
        self._compressor = compressor
        self._ratios = {part: Ratio() for part in ("mask", "dense", "values", "change")}
        self._made = 0

    @property
    def compresses(self) -> bool:
        """The link is so slow that it may pay to compress."""
        name = self._compressor
        return name is not None and self._costs.seconds(name, 1) < 1 / self.bandwidth

    def pack(self, parts: Unpacked, dtype: str, wire: str) -> Packed:
        """The arrays as they are sent: values in the wire's dtype, each array smaller where that pays."""
        self._made += 1
        values, width = parts.values, np.dtype(wire).itemsize
        if wire != dtype:
            values = values.view(dtype).astype(wire).view(np.uint8)
        if parts.mask is None:
            dense, how = self._smaller("dense", values, values.size / self.bandwidth)
            return Packed((dense,), (how,), "plain")
        mask, mask_how = self._mask(parts.mask)
        plain = values.size / self.bandwidth
        kind: Literal["plain", "change"] = "plain"
        if wire == dtype and parts.old is not None and self._change_pays(values, parts.old, width):
            kind, start = "change", time.perf_counter()
            values = to_change(values, parts.old, width)
            self._costs.learn_encode("change", values.size, time.perf_counter() - start)
        packed, how = self._smaller("values" if kind == "plain" else "change", values, plain)
        return Packed((mask, packed), (mask_how, how), kind)

    def _mask(self, mask: Bytes) -> tuple[Bytes, Compression]:
        """As it is, nested or compressed."""
        costs, best = self._costs, mask.size / self.bandwidth
        if mask.size < LEAST or costs.seconds("nested", mask.size) >= best:
            return mask, "none"
        start = time.perf_counter()
        out = np.empty(nested_room(mask.size), np.uint8)
        nested = out[: kernels().mask_nest(mask, out)]
        costs.learn_encode("nested", mask.size, time.perf_counter() - start)
        here = nested.size / self.bandwidth + costs.decode.get("nested", 0.0) * mask.size
        smaller, how = self._smaller("mask", mask, min(here, best))
        if how != "none" and smaller.size < nested.size:
            return smaller, how
        return (nested, "nested") if here < best else (mask, "none")

    def _smaller(self, part: str, data: Bytes, best: float) -> tuple[Bytes, Compression]:
        """Compressed, if that costs less than `best` seconds."""
        name = self._compressor
        if name is None or data.size < LEAST or self._costs.seconds(name, data.size) >= best:
            return data, "none"
        ratio = self._ratios[part]
        if self._probing(ratio):
            at = max((data.size - PROBE_BYTES) // 2, 0)
            self._probe(ratio, data[at : at + PROBE_BYTES])
        if self._expected(part, data.size) >= best:
            return data, "none"
        start = time.perf_counter()
        smaller = compress(name, data)
        self._costs.learn_encode(name, data.size, time.perf_counter() - start)
        ratio.learn(data.size, smaller.size)
        return (smaller, name) if smaller.size < data.size else (data, "none")

    def _change_pays(self, values: Bytes, old: Bytes, width: int) -> bool:
        if self._compressor is None or values.size < LEAST:
            return False
        ratio, plain = self._ratios["change"], self._ratios["values"]
        if self._probing(ratio) or plain.value is None:
            at = max(values.size - PROBE_BYTES, 0) // (2 * width) * width
            some, before = values[at : at + PROBE_BYTES], old[at : at + PROBE_BYTES]
            self._probe(ratio, to_change(some, before, width))
            self._probe(plain, some)
        return self._expected("change", values.size) + self._costs.seconds("change", values.size) < min(
            self._expected("values", values.size), values.size / self.bandwidth
        )

    def _probing(self, ratio: Ratio) -> bool:
        return ratio.value is None or self._made % PROBE_EVERY == 0

    def _probe(self, ratio: Ratio, sample: Bytes) -> None:
        assert self._compressor is not None
        ratio.learn(sample.size, compress(self._compressor, sample).size)

    def _expected(self, part: str, nbytes: int) -> float:
        """Seconds to compress, send and decompress."""
        ratio = self._ratios[part].value
        assert self._compressor is not None
        assert ratio is not None
        return self._costs.seconds(self._compressor, nbytes) + ratio * nbytes / self.bandwidth
