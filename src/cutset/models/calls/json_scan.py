"""JSON that is read while it comes: what was taken so far can go on to valid JSON, or reading stops."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from typing import Any

from cutset.models.calls.call_parser import CallParser, Malformed, Scan

__all__ = [
    "MOST_DEPTH",
    "as_json",
    "json_call",
    "json_calls",
    "json_list",
    "json_string",
    "json_text",
    "json_value",
    "number",
    "strict_json",
]

MOST_DEPTH = 64  # brackets within each other
MOST_NUMBER = 400  # characters
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
SURROGATE = re.compile("[\ud800-\udfff]")
Give = Callable[[str], object]


def _ignore(text: str) -> None:
    pass


def as_json(value: Any) -> str:
    """A value as JSON. Half of a surrogate pair, which is no Unicode, stays an escape. Raises ValueError for a number
    that is infinite or none."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text if text.isprintable() or not SURROGATE.search(text) else json.dumps(value)


def strict_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for another one: NaN, which Python's module reads, is no JSON."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def json_text(text: str) -> str:
    """A text as it stands between the quotes of JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def json_value(parser: CallParser, give: Give) -> Scan[None]:
    """Takes a value, and gives it as it stands. Raises Malformed."""
    closers: list[str] = []
    while True:
        character = yield from parser.space(give if closers else _ignore)
        if character == '"':
            yield from json_string(parser, give)
        elif character and character in "{[":
            if len(closers) == MOST_DEPTH:
                raise Malformed
            give(parser.pop())
            closers.append("}" if character == "{" else "]")
            if (yield from parser.space(give)) != closers[-1]:
                if character == "{":
                    yield from _key(parser, give)
                continue
        elif character and character in "-0123456789":
            give((yield from number(parser)))
        else:
            give((yield from _literal(parser)))
        while closers:
            character = yield from parser.space(give)
            if character == closers[-1]:
                closers.pop()
                give(parser.pop())
                continue
            if character != ",":
                raise Malformed
            give(parser.pop())
            if closers[-1] == "}":
                yield from parser.space(give)
                yield from _key(parser, give)
            break
        if not closers:
            return


def json_string(parser: CallParser, give: Give) -> Scan[None]:
    """Takes a string with its quotes. A control character in it, which JSON forbids and models write, is escaped."""
    yield from parser.expect('"')
    give('"')
    while (character := (yield from parser.peek())) != '"':
        if not character:
            raise Malformed
        parser.pop()
        if character != "\\":
            give(json_text(character) if character < " " else character)
            continue
        after = yield from parser.peek()
        if not after or after not in '"\\/bfnrtu':
            raise Malformed
        escape = character + parser.pop()
        for _ in range(4 if after == "u" else 0):
            digit = yield from parser.peek()
            if not digit or digit not in "0123456789abcdefABCDEF":
                raise Malformed
            escape += parser.pop()
        give(escape)
    give(parser.pop())


def number(parser: CallParser) -> Scan[str]:
    """Takes a number as JSON has it."""
    found = ""
    while (character := (yield from parser.peek())) and character in "+-.0123456789eE" and len(found) < MOST_NUMBER:
        found += parser.pop()
    if NUMBER.fullmatch(found) is None:
        raise Malformed
    return found


def json_calls(parser: CallParser, names: Collection[str] | None = None) -> Scan[None]:
    """Takes a call, or a list of calls, `[{"name": …, "arguments": {…}}, …]`, and ends each."""
    if (yield from parser.space()) != "[":
        yield from json_call(parser, names)
        parser.done()
        return
    parser.pop()
    yield from json_list(parser, names)


def json_list(parser: CallParser, names: Collection[str] | None = None) -> Scan[None]:
    """The same behind the first bracket."""
    while True:
        yield from parser.space()
        yield from json_call(parser, names)
        character = yield from parser.space()
        if character not in ("]", ","):
            raise Malformed
        parser.pop()
        parser.done()
        if character == "]":
            return


def json_call(parser: CallParser, names: Collection[str] | None = None) -> Scan[None]:
    """Takes `{"name": …, "arguments": {…}}`, in any order; other keys are passed over, and `parameters` are arguments
    too. Arguments are given as they come once the name is known. With `names`, another one is Malformed.

    The caller says when the call is done.
    """
    name = arguments = None
    begun = False
    yield from parser.expect("{")
    while True:
        yield from parser.space()
        key = yield from _decoded(parser)
        yield from parser.space()
        yield from parser.expect(":")
        character = yield from parser.space()
        if key == "name" and name is None:
            name = yield from _decoded(parser)
            if names is not None and name not in names:
                raise Malformed
        elif key in ("arguments", "parameters") and arguments is None:
            if character == "{" and name is not None:
                parser.begin(name)
                begun, arguments = True, ""
                yield from json_value(parser, parser.give)
            else:
                arguments = yield from _held_arguments(parser, character)
        else:
            yield from json_value(parser, _ignore)
        character = yield from parser.space()
        if character not in ("}", ","):
            raise Malformed
        parser.pop()
        if character == "}":
            break
    if name is None:
        raise Malformed
    if not begun:
        parser.begin(name)
        parser.give(arguments or "{}")


def _held_arguments(parser: CallParser, first: str) -> Scan[str]:
    """Arguments that come before the name, or as JSON in a string, or as null."""
    parts: list[str] = []
    yield from json_value(parser, parts.append)
    text = "".join(parts)
    if first == '"':
        text = json.loads(text)
        try:
            inner = strict_json(text)
        except (ValueError, RecursionError):
            raise Malformed from None
        if not isinstance(inner, dict) or SURROGATE.search(text):
            raise Malformed
    elif first == "n":
        text = "{}"
    elif first != "{":
        raise Malformed
    return text


def _key(parser: CallParser, give: Give) -> Scan[None]:
    yield from json_string(parser, give)
    yield from parser.space(give)
    yield from parser.expect(":")
    give(":")


def _decoded(parser: CallParser) -> Scan[str]:
    parts: list[str] = []
    yield from json_string(parser, parts.append)
    return str(json.loads("".join(parts)))


def _literal(parser: CallParser) -> Scan[str]:
    found = yield from parser.word()
    if found not in ("true", "false", "null"):
        raise Malformed
    return found
