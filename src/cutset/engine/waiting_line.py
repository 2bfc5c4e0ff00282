"""The sequences that wait for a place, in the order in which they get one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice

from cutset.engine.sequence import Sequence

__all__ = ["WaitingLine"]


class WaitingLine:
    """First come, first served; those in the background come after all others."""

    def __init__(self) -> None:
        self._lines: tuple[OrderedDict[Sequence, None], ...] = (OrderedDict(), OrderedDict())

    def put(self, sequence: Sequence, *, first: bool = False) -> None:
        """It waits from now on, behind those of its kind or before them."""
        line = self._of(sequence)
        line[sequence] = None
        line.move_to_end(sequence, last=not first)

    def discard(self, sequence: Sequence) -> None:
        """It doesn't wait any more, if it did."""
        self._of(sequence).pop(sequence, None)

    def next(self, most: int, *, background: bool, among: Iterable[Sequence] | None = None) -> list[Sequence]:
        """The first ones in the background or not, all of which wait; in the order of `among`, where that is given."""
        line = self._lines[background]
        return list(islice(line if among is None else (one for one in among if one in line), max(most, 0)))

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._of(sequence)

    def __len__(self) -> int:
        return sum(map(len, self._lines))

    def _of(self, sequence: Sequence) -> OrderedDict[Sequence, None]:
        return self._lines[sequence.request.background]
