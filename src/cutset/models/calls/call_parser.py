"""The one protocol of all formats: text in, in any pieces, events out.

A parser is a coroutine that gets one character at a time. So how the text was cut can't change the events, and a format
is written down as it is read: `yield from` what may follow.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from cutset.models.calls.call_events import (
    ArgumentsPiece,
    CallBegin,
    CallBroken,
    CallEnd,
    ContentPiece,
    Event,
    ReasoningPiece,
)

__all__ = ["CallParser", "CallShape", "Malformed", "Scan"]

_T = TypeVar("_T")
Scan = Generator[None, str, _T]  # reads characters; returns what it has found
MOST_NAME = 256  # characters
_Piece = type[ContentPiece] | type[ReasoningPiece] | type[ArgumentsPiece]


@dataclass(frozen=True)
class CallShape:
    """How a grammar has calls written, so that the format reads them: `opens`, then `first`, calls with `between` among
    them, and `last`. With `each`, every call has all of it. A call is its name and its arguments within `call`.
    """

    opens: str
    first: str = ""
    call: tuple[str, str, str] = ('{"name": "', '", "arguments": ', "}")
    between: str = ", "
    last: str = ""
    each: bool = False


class Malformed(Exception):
    """What has begun as a call can't go on like this."""


class CallParser:
    """Finds tool calls in an answer. What only looks like one is content, to the last character; spaces and line breaks
    around calls belong to the format.

    A format overrides `_call`, which reads what follows one of `opens`, or `_answer`, where calls have no mark.
    `tools` maps the names that were offered to the JSON schemas of their arguments.
    """

    opens: ClassVar[tuple[str, ...]] = ()  # what begins a call, or several
    markers: ClassVar[frozenset[str]] = frozenset()  # special tokens that it reads, beside `opens`
    reads_reasoning: ClassVar[bool] = False  # so that nothing need be split off before
    shape: ClassVar[CallShape] = CallShape("", first="[", last="]")

    def __init__(self, tools: Mapping[str, Mapping[str, Any]]) -> None:
        self.tools = tools
        self._events: list[Event] = []
        self._kind: _Piece | None = None  # of the pieces that are being put together
        self._texts: list[str] = []
        self._next = ""  # a character that was looked at
        self._ended = False
        self._raw: list[str] = []  # what was read of a call
        self._begun = False
        self._called = False  # a call has ended, and nothing but space came after it
        self._reading = self._answer()
        next(self._reading)

    @classmethod
    def special(cls) -> frozenset[str]:
        """Texts of special tokens that must reach it."""
        return cls.markers | frozenset(cls.opens)

    @classmethod
    def shape_in(cls, template: str) -> CallShape:
        """`shape`, as the model of this chat template writes it."""
        return cls.shape

    @staticmethod
    def call_id() -> str:
        """A new id for a call, of the kind that the family's template takes back."""
        return f"call_{os.urandom(12).hex()}"

    def feed(self, text: str) -> list[Event]:
        """What has become certain with this text."""
        for character in text:
            self._reading.send(character)
        return self._found()

    def end(self) -> list[Event]:
        """What is left, as no more text comes."""
        self._ended = True
        try:
            while True:
                self._reading.send("")
        except StopIteration:
            return self._found()

    def _answer(self) -> Scan[None]:
        """The whole answer."""
        while opener := (yield from self._content()):
            yield from self._try(self._call(opener))

    def _call(self, opener: str) -> Scan[None]:
        """What follows `opener`: one call or several. Raises Malformed before the character that doesn't fit."""
        raise NotImplementedError

    def _try(self, call: Scan[None]) -> Scan[bool]:
        """Reads a call, or gives what looked like one back as content. Whether it was one."""
        try:
            yield from call
        except Malformed:
            text = "".join(self._raw)
            if self._begun:
                self._flush()
                self._events.append(CallBroken(text))
            elif text:
                self._give(ContentPiece, text)
            self._raw, self._begun, self._called = [], False, False
            return False
        self._raw = []
        return True

    # Characters. "" is the end of the text.

    def peek(self) -> Scan[str]:
        """The next character, which stays."""
        if not self._next and not self._ended:
            self._next = yield
        return self._next

    def pop(self) -> str:
        """Takes the character that `peek` has shown."""
        character, self._next = self._next, ""
        self._raw.append(character)
        return character

    def space(self, give: Callable[[str], object] = lambda text: None) -> Scan[str]:
        """Passes over spaces and line breaks. The character after them."""
        while (character := (yield from self.peek())) and character in " \t\r\n":
            give(self.pop())
        return character

    def expect(self, text: str) -> Scan[None]:
        """Takes this text. Raises Malformed for another one."""
        for wanted in text:
            if (yield from self.peek()) != wanted:
                raise Malformed
            self.pop()

    def word(self, more: str = "") -> Scan[str]:
        """Takes letters, digits, `_` and those in `more`."""
        found: list[str] = []
        while (character := (yield from self.peek())) and (
            character == "_" or character in more or (character.isascii() and character.isalnum())
        ):
            if len(found) == MOST_NAME:
                raise Malformed
            found.append(self.pop())
        return "".join(found)

    def until(self, marker: str, give: Callable[[str], object]) -> Scan[None]:
        """Gives what comes before `marker`, and takes that too. Raises Malformed where it never comes."""
        part = ""
        while part != marker:
            if not (yield from self.peek()):
                raise Malformed
            part += self.pop()
            while not marker.startswith(part):
                give(part[0])
                part = part[1:]

    # Events.

    def begin(self, name: str) -> None:
        """A call begins. Raises Malformed for what can't be a name."""
        if not name or len(name) > MOST_NAME or not name.isprintable():  # half a surrogate pair isn't
            raise Malformed
        self._flush()
        self._begun = True
        self._events.append(CallBegin(name))

    def give(self, text: str) -> None:
        """More of the arguments."""
        self._give(ArgumentsPiece, text)

    def done(self) -> None:
        """The call is complete."""
        self._flush()
        self._events.append(CallEnd())
        self._raw, self._begun, self._called = [], False, True

    def content(self, text: str) -> None:
        """Text for the user."""
        self._give(ContentPiece, text)

    def reasoning(self, text: str) -> None:
        """Text of the reasoning."""
        self._give(ReasoningPiece, text)

    def _content(self) -> Scan[str]:
        """Gives text until one of `opens` comes, and returns that; "" at the end. Spaces wait for what follows them."""
        space = part = ""
        self._raw = []
        while character := (yield from self.peek()):
            self._next = ""
            part += character
            while part and not any(opener.startswith(part) for opener in self.opens):
                first, part = part[0], part[1:]
                if first in " \t\r\n":
                    space += first
                else:
                    self.content(space + first)
                    space, self._called = "", False
            if part in self.opens and part:
                self._raw = [space, part]
                return part
        if part or not self._called:
            self.content(space + part)
        return ""

    def _give(self, kind: _Piece, text: str) -> None:
        if kind is not self._kind:
            self._flush()
            self._kind = kind
        self._texts.append(text)

    def _flush(self) -> None:
        if self._kind is not None and (text := "".join(self._texts)):
            self._events.append(self._kind(text))
        self._kind, self._texts = None, []

    def _found(self) -> list[Event]:
        self._flush()
        found, self._events = self._events, []
        return found
