"""Gemma's calls: FunctionGemma and Gemma 4."""

from __future__ import annotations

from typing import ClassVar

from cutset.models.calls.call_parser import CallParser, CallShape, Malformed, Scan
from cutset.models.calls.json_scan import json_call, json_text, number

__all__ = ["GemmaCalls"]

MOST_DEPTH = 32
# What begins a call, what ends it, and what stands around strings.
STYLES = {
    "<|tool_call>": ("<tool_call|>", '<|"|>'),
    "<start_function_call>": ("<end_function_call>", "<escape>"),
}


class GemmaCalls(CallParser):
    """`<|tool_call>call:NAME{key:<|"|>text<|"|>,n:1}<tool_call|>`, or the same with FunctionGemma's marks."""

    opens: ClassVar[tuple[str, ...]] = tuple(STYLES)
    markers: ClassVar[frozenset[str]] = frozenset(mark for marks in STYLES.values() for mark in marks)

    shape: ClassVar[CallShape] = CallShape("<|tool_call>", last="<tool_call|>", between="", each=True)

    @classmethod
    def shape_in(cls, template: str) -> CallShape:
        """By the mark that the template has."""
        older = CallShape("<start_function_call>", last="<end_function_call>", between="", each=True)
        return cls.shape if cls.shape.opens in template else older

    def _call(self, opener: str) -> Scan[None]:
        closer, self._quote = STYLES[opener]
        if (yield from self.space()) == "{":  # what a grammar makes
            yield from json_call(self)
        else:
            yield from self.expect("call:")
            name = yield from self.word(".-")
            if (yield from self.peek()) != "{":
                raise Malformed
            self.begin(name)
            yield from self._object(0)
        if (yield from self.space()):
            yield from self.expect(closer)
        self.done()

    def _object(self, depth: int) -> Scan[None]:
        self.pop()
        self.give("{")
        before = ""
        while (yield from self.space()) != "}":
            key = yield from self._name()
            yield from self.space()
            yield from self.expect(":")
            self.give(f'{before}"{json_text(key)}": ')
            yield from self._value(depth + 1)
            before = ", "
            yield from self._comma("}")
        self.pop()
        self.give("}")

    def _name(self) -> Scan[str]:
        """A key, which stands as it is, or is quoted."""
        parts: list[str] = []
        if (yield from self.peek()) in ('"', self._quote[0]):
            quote = self._quote if self._quote[0] == (yield from self.peek()) else '"'
            yield from self.expect(quote)
            yield from self.until(quote, parts.append)
        else:
            parts.append((yield from self.word(".-$@")))
        if not "".join(parts):
            raise Malformed
        return "".join(parts)

    def _value(self, depth: int) -> Scan[None]:
        character = yield from self.space()
        if depth > MOST_DEPTH or not character:
            raise Malformed
        if character in (self._quote[0], '"'):
            quote = self._quote if character == self._quote[0] else '"'
            yield from self.expect(quote)
            self.give('"')
            yield from self.until(quote, lambda text: self.give(json_text(text)))
            self.give('"')
        elif character == "{":
            yield from self._object(depth)
        elif character == "[":
            self.pop()
            self.give("[")
            before = ""
            while (yield from self.space()) != "]":
                self.give(before)
                yield from self._value(depth + 1)
                before = ", "
                yield from self._comma("]")
            self.pop()
            self.give("]")
        elif character in "-0123456789":
            self.give((yield from number(self)))
        else:
            found = yield from self.word()
            if found not in ("true", "false", "null"):
                raise Malformed
            self.give(found)

    def _comma(self, closer: str) -> Scan[None]:
        if (yield from self.space()) == ",":
            self.pop()
        elif (yield from self.peek()) != closer:
            raise Malformed
