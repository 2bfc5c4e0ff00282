"""What one value costs to cross a cut, by the ways in which it can be encoded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from cutset.partition.node import ITEM_BYTES, Value

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

    Without deltas every item costs a key. Deltas are those of a typical item. A few items with much change
    make no difference to that, but they do to how many a link carries: `mean` is the bytes of all deltas together, as a
    multiple of as many typical ones.
    """

    key: tuple[Coded, ...]
    delta: tuple[Coded, ...] = ()
    mean: float = 1.0

    def ways(self, mode: Mode, horizon: float, *, mean: bool = False) -> tuple[Coded, ...]:
        """What an item costs in the mean over `horizon` items, of which the first is a key and the others are
        typical ones, or with `mean` as many as there are of each.
        """
        if mode == "full" or not self.delta:
            return self.key
        factor = self.mean if mean else 1.0
        deltas = tuple(way._replace(nbytes=way.nbytes * factor) for way in self.delta)
        first = 1 / horizon
        if first == 0:
            return deltas
        ways = (self.key[min(i, len(self.key) - 1)] for i in range(len(deltas)))
        return tuple(_mean(key, delta, first) for key, delta in zip(ways, deltas, strict=True))


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
    """Traffic of values of which that share changes from item to item, where nothing was measured."""
    return {v.name: Traffic((dense(v, copy),), (changed(v, share, encode, decode),)) for v in values}
