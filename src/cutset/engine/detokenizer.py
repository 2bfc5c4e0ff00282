"""Text of an answer while it grows: no half characters, no half stop strings.

Work for a token doesn't grow with the length of the text.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Protocol, Self

from cutset.engine.stops import StopMatcher

__all__ = ["Detokenizer", "StreamingTokenizer", "TextStream"]


class TextDecoder(Protocol):
    """Decodes one text while its tokens come. Pieces that were given out never change."""

    def push(self, ids: Iterable[int]) -> str:
        """The text that has become certain with these tokens."""
        ...

    def so_far(self) -> str:
        """What would follow if no token came any more, but for the half of a character."""
        ...

    def rest(self) -> str:
        """What follows if no token comes any more."""
        ...

    def completes(self, token_id: int) -> bool:
        """Whether this token would go on with a character that is half there."""
        ...

    def copy(self) -> Self:
        """Another one that has got the same tokens."""
        ...


class StreamingTokenizer(Protocol):
    """What the engine needs of a tokenizer."""

    def incremental(self, *, skip_special_tokens: bool = True) -> TextDecoder:
        """A decoder for one text, with U+FFFD for bytes that are no character."""
        ...

    @property
    def special_texts(self) -> Mapping[int, str]:
        """The texts of special tokens."""
        ...


class TextStream:
    """Turns the tokens of an answer into pieces of text: `decode` of prompt and answer without `decode` of the prompt.

    Where the answer changes the end of the prompt's text (it completes a character, say), its text begins at the first
    character that differs.
    """

    def __init__(
        self, tokenizer: StreamingTokenizer, prompt_ids: Iterable[int] = (), *, skip_special_tokens: bool = True
    ) -> None:
        self._decoder = tokenizer.incremental(skip_special_tokens=skip_special_tokens)
        self._decoder.push(prompt_ids)
        self._before = self._decoder.rest()  # the prompt's text as far as the answer could change it

    def copy(self) -> TextStream:
        """Another one that has got the same tokens."""
        made = copy(self)
        made._decoder = self._decoder.copy()
        return made

    def push(self, token_id: int) -> str:
        """The text that has become certain with this token."""
        piece = self._decoder.push((token_id,))
        if not self._before:
            return piece
        same = _in_common(self._before, piece)
        self._before = self._before[same:] if same == len(piece) else ""
        return piece[same:]

    @property
    def tail(self) -> str:
        """What the text has beyond the pieces so far, but for half a character. A later token may still change it."""
        return self._answered(self._decoder.so_far())

    def completes(self, token_id: int) -> bool:
        """Whether this token would go on with a character that is half there."""
        return self._decoder.completes(token_id)

    def flush(self) -> str:
        """The rest: U+FFFD for a character that stayed incomplete."""
        return self._answered(self._decoder.rest())

    def _answered(self, text: str) -> str:
        return text[_in_common(self._before, text) :] if self._before else text


def _in_common(first: str, second: str) -> int:
    """Characters with which both texts begin."""
    if second.startswith(first):
        return len(first)
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(second))


class _HiddenStops:
    """Looks for stop strings in the text with its special tokens, where these are hidden from the text given out.

    Remembers how long both texts were after each token, so as to say where in the one a place in the other lies.
    """

    def __init__(self, stream: TextStream, stops: Sequence[str], *, include: bool) -> None:
        self._stream = stream
        self._matcher = StopMatcher(stops, include=include)
        self._length = 0  # of all pieces
        self._lengths = [(0, 0)]  # of this text and of the one given out, after each token from `limit` on

    @property
    def found(self) -> str | None:
        """The stop string that has ended this text."""
        return self._matcher.found

    def push(self, token_id: int, given: int, *, may_stop: bool) -> None:
        """`given` is the length of the text without special tokens after this one."""
        piece, tail = self._stream.push(token_id), self._stream.tail
        self._matcher.push(piece, tail, may_stop=may_stop)
        self._length += len(piece)
        self._note(self._length + len(tail), given)

    def flush(self, given: int, *, may_stop: bool) -> None:
        """The end of both texts."""
        piece = self._stream.flush()
        self._matcher.push(piece, may_stop=may_stop)
        self._note(self._length + len(piece), given)

    def limit(self) -> int:
        """Characters of the text without special tokens that can be given out."""
        at = self._matcher.limit
        after = bisect_right(self._lengths, at, key=lambda one: one[0])
        first, given = self._lengths[max(0, after - 1)]
        if first < at and after < len(self._lengths):  # inside a token; of a hidden one nothing shows
            last, whole = self._lengths[after]
            given = max(given, whole - (last - at))
        del self._lengths[: max(0, after - 1)]
        return given

    def copy(self) -> _HiddenStops:
        """Another one that has got the same tokens."""
        made = copy(self)
        made._stream, made._matcher = self._stream.copy(), self._matcher.copy()
        made._lengths = list(self._lengths)
        return made

    def _note(self, length: int, given: int) -> None:
        # A token may take away from the ends of texts what others brought.
        while len(self._lengths) > 1 and (self._lengths[-1][0] > length or self._lengths[-1][1] > given):
            self._lengths.pop()
        self._lengths.append((length, given))


class Detokenizer:
    """The text of an answer, up to a stop string.

    Stop strings are looked for in what is given out, and where special tokens are hidden, in the text with them too.
    """

    def __init__(
        self,
        tokenizer: StreamingTokenizer,
        prompt_ids: Iterable[int] = (),
        *,
        stop: Sequence[str] = (),
        include_stop: bool = False,
        skip_special_tokens: bool = True,
        offsets: bool = True,  # whether anybody will ask where a token `begins`
    ) -> None:
        self._offsets, self._looks_ahead = offsets, offsets or bool(stop)
        self._stream = TextStream(tokenizer, prompt_ids, skip_special_tokens=skip_special_tokens)
        self._matcher = StopMatcher(stop, include=include_stop)
        self._hidden: _HiddenStops | None = None
        if stop and skip_special_tokens:
            with_special = TextStream(tokenizer, prompt_ids, skip_special_tokens=False)
            self._hidden = _HiddenStops(with_special, stop, include=include_stop)
        self._special = {} if skip_special_tokens else tokenizer.special_texts  # of tokens that show
        self._shown: tuple[tuple[int, str], ...] = ()  # the last token, if it is special
        self._tail = ""
        self._ready = ""  # what the matcher lets through and isn't given out yet
        self._given = 0  # characters
        self.length = 0  # characters that are certain, given out or not
        self.begins = 0  # characters before those that the last token brought
        self.found: str | None = None  # the stop string that has ended the text

    def push(self, token_id: int, *, may_stop: bool = True) -> str:
        """The text that can be given out with this token. Not to be called once a stop string is found."""
        if self._offsets:  # half a character is U+FFFD if this token doesn't go on with it
            before = self._tail if self._stream.completes(token_id) else self._stream.flush()
        piece = self._stream.push(token_id)
        tail = self._stream.tail if self._looks_ahead else ""
        if self._offsets:
            self.begins = max(self.begins, self.length + _in_common(before, piece + tail))
        self._tail = tail
        self.length += len(piece)
        self._shown = self._place(self._special[token_id], piece) if token_id in self._special else ()
        self._ready += self._matcher.push(piece, tail, may_stop=may_stop)
        if self._hidden is not None:
            self._hidden.push(token_id, self.length + len(tail), may_stop=may_stop)
        return self._give(end=False)

    def flush(self, *, may_stop: bool = True) -> str:
        """The rest of the text, at its end."""
        piece, self._tail = self._stream.flush(), ""
        self.length += len(piece)
        self._ready += self._matcher.push(piece, may_stop=may_stop)
        if self._matcher.found is None:
            self._ready += self._matcher.flush()
        if self._hidden is not None:
            self._hidden.flush(self.length, may_stop=may_stop)
        return self._give(end=True)

    def take_special(self) -> tuple[tuple[int, str], ...]:
        """Where in the text the last token begins, and its text, if it is special and shows; once."""
        shown, self._shown = self._shown, ()
        return shown

    def copy(self) -> Detokenizer:
        """Another one that has got the same tokens."""
        made = copy(self)
        made._stream, made._matcher = self._stream.copy(), self._matcher.copy()
        made._hidden = None if self._hidden is None else self._hidden.copy()
        return made

    def _place(self, text: str, piece: str) -> tuple[tuple[int, str], ...]:
        """Where a special token stands that came with this piece; nowhere if decoding has changed its text."""
        tail = self._stream.tail
        return ((self.length + len(tail) - len(text), text),) if (piece + tail).endswith(text) else ()

    def _give(self, *, end: bool) -> str:
        self.found = self._matcher.found
        limit = self._given + len(self._ready)
        if self._hidden is not None:
            before = self._hidden.limit()
            if self._hidden.found is not None and (self.found is None or before < limit):
                if self.found is None:
                    self._ready += self._matcher.flush() + self._tail
                self.found, limit = self._hidden.found, before
            elif self.found is None and not end:
                limit = min(limit, before)
        count = max(0, limit - self._given)
        text, self._ready = self._ready[:count], self._ready[count:]
        self._given += len(text)
        return text
