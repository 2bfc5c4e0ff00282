"""Stop strings in a text that grows."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

__all__ = ["StopMatcher"]


class StopMatcher:
    """Looks for stop strings in a text that comes in pieces, one character after another (Knuth-Morris-Pratt).

    The string that is complete first stops the text; of two that end at the same place, the longer one. So the result
    doesn't depend on how the text is cut into pieces.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        # Longest first: it wins where several end at once.
        self._stops = sorted(stops, key=len, reverse=True)
        self._borders = [_borders(stop) for stop in self._stops]
        self._matched = [0] * len(self._stops)  # characters of each stop string that the pieces end with
        self._ahead = list(self._matched)  # the same for pieces and tail
        self._tail = ""
        self._read = 0  # characters of all pieces
        self._include = include
        self.held = ""  # of the pieces, what may be half a stop string
        self.limit = 0  # characters of the text that can be given out
        self.found: str | None = None

    def push(self, piece: str, tail: str = "", *, may_stop: bool = True) -> str:
        """The text that can be given out. With `may_stop` false, a stop string that ends in this piece is just text.

        `tail` is what the text has beyond its pieces so far: a stop string may end there too, but the tail of the next
        call may be another one.
        """
        if not self._stops:
            self.limit += len(piece)
            return piece
        new = piece + tail
        if not new.startswith(self._tail):
            self._ahead, self._tail = list(self._matched), ""
        for end in range(len(self._tail), len(new)):
            found = self._advance(self._ahead, new[end])
            if found is not None and may_stop:
                given = self._read - len(self.held)
                self.limit = self._read + end + 1 - (0 if self._include else len(found))
                text = self.held + new
                self.found, self.held = found, ""
                return text[: self.limit - given]
        if tail:
            for character in piece:
                self._advance(self._matched, character)
        else:
            self._matched = list(self._ahead)
        self._tail = tail
        self._read += len(piece)
        text, hold = self.held + piece, max(self._matched)
        self.limit, self.held = self._read - hold, text[len(text) - hold :]
        return text[: len(text) - hold]

    def flush(self) -> str:
        """What was held back; it has turned out to be no stop string."""
        held, self.held, self.limit = self.held, "", self._read
        return held

    def copy(self) -> StopMatcher:
        """Another one that has got the same text."""
        made = copy(self)
        made._matched, made._ahead = list(self._matched), list(self._ahead)
        return made

    def _advance(self, matched: list[int], character: str) -> str | None:
        """The stop string that ends with this character."""
        found = None
        for which, (stop, borders) in enumerate(zip(self._stops, self._borders, strict=True)):
            length = matched[which]
            while length and stop[length] != character:
                length = borders[length - 1]
            length += stop[length] == character
            if length == len(stop):
                found = found or stop
                length = borders[-1]
            matched[which] = length
        return found


def _borders(stop: str) -> list[int]:
    # borders[i]: length of the longest proper prefix of stop[: i + 1] that is also its suffix
    borders = [0] * len(stop)
    matched = 0
    for i in range(1, len(stop)):
        while matched and stop[i] != stop[matched]:
            matched = borders[matched - 1]
        matched += stop[i] == stop[matched]
        borders[i] = matched
    return borders
