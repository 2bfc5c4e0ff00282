"""What one value costs to cross a cut, by the ways in which it can be encoded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from cutset.stream.node import ITEM_BYTES, Value

__all__ = ["Coded", "Mode", "Traffic", "changed", "dense", "spread"]

Mode = Literal["full", "delta"]


class Coded(NamedTuple):
    """One way to encode a value, on the machine where that was measured."""

    nbytes: float  # on the link
    encode: float = 0.0  # seconds
    decode: float = 0.0  # seconds


@dataclass(frozen=True, slots=True)
class Traffic:
    """The ways to encode a key (all of a value) and a delta (what changed); the sender takes the quickest for its link.

    Without deltas every picture costs a key.
    """

    key: tuple[Coded, ...]
    delta: tuple[Coded, ...] = ()

    def ways(self, mode: Mode, horizon: float) -> tuple[Coded, ...]:
        """What a picture costs in the mean over `horizon` pictures, of which the first is a key."""
        if mode == "full" or not self.delta:
            return self.key
        first = 1 / horizon
        if first == 0:
            return self.delta
        ways = (self.key[min(i, len(self.key) - 1)] for i in range(len(self.delta)))
        return tuple(_mean(key, delta, first) for key, delta in zip(ways, self.delta, strict=True))


def _mean(key: Coded, delta: Coded, first: float) -> Coded:
    return Coded(*(first * a + (1 - first) * b for a, b in zip(key, delta, strict=True)))


def dense(value: Value, copy: float = 0.0) -> Coded:
    """The value as it lies in memory; `copy` is seconds a byte of the receiver."""
    return Coded(value.nbytes, 0.0, copy * value.nbytes)


def changed(value: Value, share: float, encode: float = 0.0, decode: float = 0.0) -> Coded:
    """A bit mask and the values of that share of the elements; `encode`, `decode`: seconds a byte of the value."""
    elements = value.nbytes // ITEM_BYTES[value.dtype]
    return Coded((elements + 7) // 8 + share * value.nbytes, encode * value.nbytes, decode * value.nbytes)


def spread(
    values: Iterable[Value], share: float, encode: float = 0.0, decode: float = 0.0, copy: float = 0.0
) -> dict[str, Traffic]:
    """Traffic of values of which that share changes from picture to picture, where nothing was measured."""
    return {v.name: Traffic((dense(v, copy),), (changed(v, share, encode, decode),)) for v in values}
