"""Text of a sequence while it grows: no half characters, no half stop strings.

Work for a token doesn't grow with the length of the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["Detokenizer", "StopMatcher", "TextStream", "Tokenizer"]

REPLACEMENT = "\ufffd"  # what a decoder puts where bytes are not (yet) a character
MAX_PENDING = 4  # a UTF-8 character has at most 4 bytes and a token at least one
WINDOW = 12  # tokens decoded again with each new one, at most, while the text is sound
LONGEST_WINDOW = 32  # the same where it isn't
OVERLAP = 4  # tokens of the window that stay when it is shortened


class Tokenizer(Protocol):
    """What the engine needs of a tokenizer."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of these tokens, with U+FFFD for bytes that are no character."""
        ...


class TextStream:
    """Turns tokens into pieces of text. The pieces joined are `decode` of all tokens.

    A window of the last tokens is decoded with each new one, since a token's text depends on its neighbours. What has
    been given out isn't taken back, so the promise fails where a later token changes earlier text: decoders with byte
    fallback turn a whole run of bytes into U+FFFD when a wrong byte ends it.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._window: list[int] = []
        self._text = ""  # of the window
        self._shown = 0  # characters of it that have been given out
        self._pending = 0  # tokens since the text last ended in a whole character

    def push(self, token_id: int) -> str:
        """The text that has become certain with this token."""
        window = self._window
        window.append(token_id)
        text = self._tokenizer.decode(window, skip_special_tokens=self._skip)
        if self._skip and text == self._text and self._is_special(token_id):
            window.pop()  # it never shows, and a run of such tokens would fill the window
            return ""
        self._text = text
        certain = len(text.rstrip(REPLACEMENT))
        if certain == len(text):
            self._pending = 0
        else:
            self._pending += 1
            if self._pending >= MAX_PENDING:  # no character takes that long: only the last one may yet come right
                certain = len(text) - 1
        piece = text[self._shown : certain]
        self._shown = max(self._shown, certain)
        if len(window) > WINDOW:
            self._shorten()
        return piece

    def flush(self) -> str:
        """The rest: U+FFFD for a character that stayed incomplete."""
        piece = self._text[self._shown :]
        self._shown = len(self._text)
        return piece

    def _is_special(self, token_id: int) -> bool:
        alone = self._tokenizer.decode([token_id], skip_special_tokens=True)
        return not alone and bool(self._tokenizer.decode([token_id], skip_special_tokens=False))

    def _shorten(self) -> None:
        forced = len(self._window) > LONGEST_WINDOW
        if self._pending and not forced:
            return
        for overlap in range(OVERLAP, OVERLAP + MAX_PENDING):  # one of these begins with a whole character
            kept = self._window[-overlap:]
            text = self._tokenizer.decode(kept, skip_special_tokens=self._skip)
            # It has to show something, or what follows would be taken for the start of a text, where some tokenizers
            # strip a space; and not to begin in the middle of a character.
            if forced or (text and REPLACEMENT not in text and self._text.endswith(text)):
                held = len(self._text) - self._shown
                self._window, self._text, self._shown = kept, text, max(0, len(text) - held)
                return


class StopMatcher:
    """Looks for stop strings in a text that comes in pieces, one character after another (Knuth-Morris-Pratt).

    The string that is complete first stops the text; of two that end at the same place, the longer one. So the result
    doesn't depend on how the text is cut into pieces.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        # Longest first: it wins where several end at once.
        self._stops = sorted(stops, key=len, reverse=True)
        self._borders = [_borders(stop) for stop in self._stops]
        self._matched = [0] * len(self._stops)  # characters of each stop string that the text ends with
        self._held = ""
        self._include = include
        self.found: str | None = None

    def push(self, piece: str, *, may_stop: bool = True) -> str:
        """The text that can be given out. With `may_stop` false, a stop string that ends in this piece is just text."""
        if not self._stops or not piece:
            return piece
        text = self._held + piece
        for offset, character in enumerate(piece, start=len(self._held) + 1):
            for which, stop in enumerate(self._stops):
                if self._advance(which, character) == len(stop):
                    if may_stop:
                        self.found, self._held = stop, ""
                        return text[: offset if self._include else offset - len(stop)]
                    self._matched[which] = self._borders[which][-1]
        hold = max(self._matched)
        self._held = text[len(text) - hold :]
        return text[: len(text) - hold]

    def flush(self) -> str:
        """What was held back; it has turned out to be no stop string."""
        held, self._held = self._held, ""
        return held

    def _advance(self, which: int, character: str) -> int:
        stop, borders, matched = self._stops[which], self._borders[which], self._matched[which]
        while matched and stop[matched] != character:
            matched = borders[matched - 1]
        matched += stop[matched] == character
        self._matched[which] = matched
        return matched


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


class Detokenizer:
    """TextStream, then StopMatcher."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str] = (),
        include_stop: bool = False,
        skip_special_tokens: bool = True,
    ) -> None:
        self._stream = TextStream(tokenizer, skip_special_tokens=skip_special_tokens)
        self._matcher = StopMatcher(stop, include=include_stop)

    @property
    def found(self) -> str | None:
        """The stop string that has ended the text."""
        return self._matcher.found

    def push(self, token_id: int, *, may_stop: bool = True) -> str:
        """The text that can be given out with this token. Not to be called once a stop string is found."""
        return self._matcher.push(self._stream.push(token_id), may_stop=may_stop)

    def flush(self, *, may_stop: bool = True) -> str:
        """The rest of the text, at its end."""
        text = self._matcher.push(self._stream.flush(), may_stop=may_stop)
        return text if self.found is not None else text + self._matcher.flush()
