"""How pieces of answers get to those who wait: each by a call of its own, or all that a step brings by one.

A call that wakes another thread costs more than a piece: where many requests are waited for in one place, it is told
of a step once. A piece that nobody reads before the answer is whole needn't be handed on at once, either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cutset.engine.outputs import Delta, joined

__all__ = ["Deliver", "DeltaJoiner", "Letter", "deliver_each"]

HELD = 0.02  # seconds, up to which pieces are joined; slower models give each token by itself

Letter = tuple[Callable[[Delta], object], Delta]  # who gets it, and what
Deliver = Callable[[list[Letter]], object]  # calls each receiver with its piece, in order; sooner or later, anywhere


def deliver_each(letters: Iterable[Letter]) -> None:
    """Calls each at once."""
    for receive, delta in letters:
        receive(delta)


class DeltaJoiner:
    """Joins the pieces of one request that nobody reads before its end: those of a sample that come within the same
    `HELD` seconds of the clock, so that all requests give theirs with the same step. The first token of a sample is
    given at once, and what ends it with all before."""

    __slots__ = ("_given", "_held")

    def __init__(self) -> None:
        self._held: dict[int, list[Delta]] = {}  # by sample
        self._given: dict[int, int] = {}  # when each sample gave something, in `HELD` seconds

    def take(self, delta: Delta, now: float) -> list[Delta]:
        """The next piece, and what is due with it; `now` in seconds."""
        index = delta.index
        self._held.setdefault(index, []).append(delta)
        if delta.finished:  # the last one of all
            samples = [*(one for one in self._held if one != index), index]
        elif delta.finish_reason is None and self._given.get(index) == int(now / HELD):
            return []
        else:
            samples = [index]
        self._given[index] = int(now / HELD)
        return [joined(self._held.pop(one)) for one in samples]
