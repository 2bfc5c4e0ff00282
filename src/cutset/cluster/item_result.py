"""What comes out of a run for each item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cutset.cluster.values import Array

__all__ = ["LATE", "ItemResult", "StateLost"]


LATE = "after capture"  # in what is said of an item whose deadline was over


@dataclass(frozen=True, slots=True)
class StateLost:
    """The workers have nothing of what came before: no item that was taken until now will come back.

    It comes in place of their results, where workers keep state (`Options.stateful`). `count` is how often it happened.
    """

    count: int
    why: str


@dataclass(frozen=True, slots=True)
class ItemResult:
    """The outputs for one item, or why there are none. Times are seconds of `time.monotonic()`."""

    source: int  # number of the source, from 0
    number: int  # of the item in its source, from 0
    time: float  # in the source, or of capture, as the source says; seconds
    outputs: Mapping[str, Array]  # by the graph's names, bfloat16 as float32; empty when dropped
    dropped: str  # why, or empty
    plan: int  # number of the plan that made it
    captured: (
        float  # when a live source gave it, when it was due at the rate asked for, or when it was read; see Feeder
    )
    sent: float  # when it was last sent; as `captured` if never
    done: float
    attempts: int  # how often it was sent
    input: Array  # what the source gave
    note: Any = None  # what it said of that, for whoever takes the result

    @property
    def output(self) -> Array:
        """The first output. Raises KeyError for an item that was dropped."""
        if not self.outputs:
            raise KeyError(f"item {self.number} of source {self.source} was dropped: {self.dropped}")
        return next(iter(self.outputs.values()))

    @property
    def late(self) -> bool:
        """It was dropped because its deadline was over, and not lost."""
        return LATE in self.dropped

    @property
    def age(self) -> float:
        """Seconds from capture to the result, with all waiting and every time that it had to be sent again."""
        return self.done - self.captured

    @property
    def latency(self) -> float:
        """The age: what whoever needs the result waits for."""
        return self.age

    @property
    def transit(self) -> float:
        """Seconds from the last sending to the result: links and layers alone."""
        return self.done - self.sent
