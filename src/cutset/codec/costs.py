"""What encoding and decoding cost here, in seconds a byte: measured once at the start, and then on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np

from cutset.codec.compression import available, compress, decompress
from cutset.kernels import native, reference_delta

__all__ = ["Costs", "Ratio", "kernels", "measured"]

WEIGHT = 0.2  # of a new measurement in the running mean
SAMPLE = 1 << 20  # bytes of the tensor that the first measurement takes


@cache
def kernels() -> Any:
    """The delta kernels: native where the extension is built, else their numpy twins."""
    return native.extension() if native.available() else reference_delta


@dataclass(slots=True)
class Costs:
    """Seconds a byte, running means. For "dense" and "bits" a byte of the dense tensor, for "nested" and a compressor a
    byte of what it is given. `decode` is the receiver's; until it says otherwise, it is as fast as this machine.
    """

    encode: dict[str, float] = field(default_factory=dict)
    decode: dict[str, float] = field(default_factory=dict)

    def copy(self) -> Costs:
        return Costs(dict(self.encode), dict(self.decode))

    def learn_encode(self, name: str, nbytes: int, seconds: float) -> None:
        """One measurement; those of less than 4 KiB say nothing."""
        _learn(self.encode, name, nbytes, seconds)

    def learn_decode(self, name: str, nbytes: int, seconds: float) -> None:
        """The same of the receiver's side."""
        _learn(self.decode, name, nbytes, seconds)

    def seconds(self, name: str, nbytes: float) -> float:
        """To encode and decode; what was never measured is free, so that it is tried."""
        return nbytes * (self.encode.get(name, 0.0) + self.decode.get(name, 0.0))


def _learn(rates: dict[str, float], name: str, nbytes: int, seconds: float) -> None:
    if nbytes >= 4096:
        rate = seconds / nbytes
        # One measurement may be of a moment when the process was not running.
        before = rates.get(name)
        rates[name] = rate if before is None else before + WEIGHT * (min(rate, 10 * before) - before)


@dataclass(slots=True)
class Ratio:
    """How far a compressor gets with one part of an edge's payloads: bytes after over bytes before, running mean."""

    value: float | None = None

    def learn(self, before: int, after: int) -> None:
        """One compression: bytes before and after."""
        new = after / before
        self.value = new if self.value is None else self.value + WEIGHT * (new - self.value)


def measured(given: Mapping[str, Mapping[str, float]] | None = None) -> Costs:
    """The costs of this machine, from a sample that takes about 20 ms once a process; or those that are given."""
    if given is not None:
        return Costs(dict(given["encode"]), dict(given["decode"]))
    return _measure().copy()


@cache
def _measure() -> Costs:
    rng = np.random.default_rng(0)
    size = SAMPLE // 4
    base = rng.standard_normal(size, np.float32)
    places = np.repeat(rng.random(size // 16) < 0.15, 16)
    fresh = np.where(places, base + np.float32(1), base)
    mask, values = np.zeros(size // 8, np.uint8), np.zeros(SAMPLE, np.uint8)
    kernel, costs = kernels(), Costs()
    held = base.copy()
    count = 0

    def encode() -> None:
        nonlocal count
        count = kernel.delta_encode(held, fresh, mask, values)

    costs.encode["bits"] = _best(encode, lambda: np.copyto(held, base)) / SAMPLE
    encode()
    some = values[: count * 4].copy()
    costs.decode["bits"] = _best(lambda: kernel.delta_decode(held, mask, some)) / SAMPLE
    nested = np.zeros(reference_delta.nested_room(mask.size), np.uint8)
    costs.encode["nested"] = _best(partial(kernel.mask_nest, mask, nested)) / mask.size
    short = nested[: kernel.mask_nest(mask, nested)]
    costs.decode["nested"] = _best(partial(kernel.mask_unnest, short, mask.copy())) / mask.size
    costs.encode["dense"] = 0.0  # sent as it lies
    costs.decode["dense"] = _best(lambda: np.copyto(held, base)) / SAMPLE
    data = np.concatenate([mask, some])
    for name in available():
        packed = compress(name, data)
        costs.encode[name] = _best(partial(compress, name, data), rounds=2) / data.size
        costs.decode[name] = _best(partial(decompress, name, packed, data.size), rounds=2) / data.size
    return costs


def _best(call: Callable[[], object], before: Callable[[], object] = lambda: None, rounds: int = 3) -> float:
    """Seconds of the quickest of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        before()
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best
