"""Calls as Python writes them: Llama 3.2 and 4, LFM2, OLMo 3."""

from __future__ import annotations

from typing import ClassVar

from cutset.models.calls.call_parser import CallParser, CallShape, Malformed, Scan
from cutset.models.calls.json_scan import json_call, json_list, json_text, number

__all__ = ["LfmCalls", "OlmoCalls", "PythonicCalls"]

MOST_DEPTH = 32
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "\n": ""}
NAMES = {"True": "true", "true": "true", "False": "false", "false": "false", "None": "null", "null": "null"}


class PythonicCalls(CallParser):
    """`[f(a=1, b="x"), g()]` as the whole answer. Only names that were offered make it calls."""

    opens: ClassVar[tuple[str, ...]] = ("<|python_start|>",)
    markers: ClassVar[frozenset[str]] = frozenset({"<|python_end|>"})

    def _answer(self) -> Scan[None]:
        if (yield from self.space()) == "[":
            yield from self._try(self._call(""))
        else:
            self.content("".join(self._raw))
        yield from super()._answer()

    def _call(self, opener: str) -> Scan[None]:
        yield from self._list("<|python_end|>" if opener else "", only=True)

    def _list(self, closer: str, *, only: bool = False) -> Scan[None]:
        """Calls in brackets, and what may stand behind them."""
        yield from self.space()
        yield from self.expect("[")
        while True:
            if (yield from self.space()) == "{":  # what a grammar makes
                yield from json_list(self, self.tools if only else None)
                break
            yield from self._python_call(only=only)
            character = yield from self.space()
            if character not in ("]", ","):
                raise Malformed
            self.pop()
            self.done()
            if character == "]":
                break
        if closer and (yield from self.space()) == closer[0]:
            yield from self.expect(closer)

    def _python_call(self, *, only: bool) -> Scan[None]:
        """One call; with `only`, of a tool that was offered. The caller says when it is done."""
        name = yield from self.word(".-")
        yield from self.space()
        yield from self.expect("(")
        if only and name not in self.tools:
            raise Malformed
        self.begin(name)
        self.give("{")
        before = ""
        while (yield from self.space()) != ")":
            key = yield from self.word()
            if not key:
                raise Malformed
            yield from self.space()
            yield from self.expect("=")
            self.give(f'{before}"{key}": ')
            yield from self._value(0)
            before = ", "
            if (yield from self.space()) == ",":
                self.pop()
            elif (yield from self.peek()) != ")":
                raise Malformed
        self.pop()
        self.give("}")

    def _value(self, depth: int) -> Scan[None]:
        character = yield from self.space()
        if depth > MOST_DEPTH or not character:
            raise Malformed
        if character in "\"'":
            yield from self._string()
        elif character in "[(":
            yield from self._several(depth, "]" if character == "[" else ")", "[]")
        elif character == "{":
            yield from self._several(depth, "}", "{}")
        elif character in "-0123456789":
            self.give((yield from number(self)))
        else:
            found = NAMES.get((yield from self.word()))
            if found is None:
                raise Malformed
            self.give(found)

    def _several(self, depth: int, closer: str, brackets: str) -> Scan[None]:
        self.pop()
        self.give(brackets[0])
        before = ""
        while (yield from self.space()) != closer:
            self.give(before)
            if closer == "}":
                if (yield from self.peek()) not in ('"', "'"):
                    raise Malformed
                yield from self._string()
                yield from self.space()
                yield from self.expect(":")
                self.give(": ")
            yield from self._value(depth + 1)
            before = ", "
            if (yield from self.space()) == ",":
                self.pop()
            elif (yield from self.peek()) != closer:
                raise Malformed
        self.pop()
        self.give(brackets[1])

    def _string(self) -> Scan[None]:
        quote = self.pop()
        self.give('"')
        while (character := (yield from self.peek())) != quote:
            if not character:
                raise Malformed
            self.pop()
            if character == "\\":
                after = yield from self.peek()
                if not after:
                    raise Malformed
                self.pop()
                if after in "xuU":
                    self.give((yield from self._code({"x": 2, "u": 4, "U": 8}[after])))
                    continue
                # As Python has it, a backslash before any other character stays.
                character = ESCAPES.get(after, after if after in "\"'\\" else character + after)
            self.give(json_text(character))
        self.pop()
        self.give('"')

    def _code(self, digits: int) -> Scan[str]:
        found = ""
        while len(found) < digits:
            digit = yield from self.peek()
            if not digit or digit not in "0123456789abcdefABCDEF":
                raise Malformed
            found += self.pop()
        code = int(found, 16)
        if code > 0x10FFFF:
            raise Malformed
        # Half of a surrogate pair stays an escape, as JSON has it: alone it is no text.
        return f"\\u{code:04x}" if 0xD800 <= code < 0xE000 else json_text(chr(code))


class LfmCalls(PythonicCalls):
    """`<|tool_call_start|>[f(a=1), g()]<|tool_call_end|>`: LFM2."""

    opens: ClassVar[tuple[str, ...]] = ("<|tool_call_start|>",)
    markers: ClassVar[frozenset[str]] = frozenset({"<|tool_call_end|>"})
    shape: ClassVar[CallShape] = CallShape("<|tool_call_start|>", first="[", last="]<|tool_call_end|>")

    def _answer(self) -> Scan[None]:
        yield from CallParser._answer(self)

    def _call(self, opener: str) -> Scan[None]:
        yield from self._list("<|tool_call_end|>")


class OlmoCalls(PythonicCalls):
    """`<function_calls>`, a call a line, `</function_calls>`: OLMo 3."""

    opens: ClassVar[tuple[str, ...]] = ("<function_calls>",)
    markers: ClassVar[frozenset[str]] = frozenset({"</function_calls>"})
    shape: ClassVar[CallShape] = CallShape("<function_calls>", first="\n", between="\n", last="\n</function_calls>")

    def _answer(self) -> Scan[None]:
        yield from CallParser._answer(self)

    def _call(self, opener: str) -> Scan[None]:
        while True:
            if (yield from self.space()) == "{":  # what a grammar makes
                yield from json_call(self)
            else:
                yield from self._python_call(only=False)
            self.done()
            character = yield from self.space()
            if not character:
                return
            if character == "<":
                yield from self.expect("</function_calls>")
                return
