"""What would take long to compile, known before: a grammar's size and depth, and what its repetitions unfold to.

A compiler in a thread can't be stopped, so what is refused here is refused in a few milliseconds, by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from cutset.errors import RequestError

__all__ = ["MOST_BYTES", "MOST_DEPTH", "check_lark", "check_regex", "check_schema", "check_size"]

MOST_BYTES = 1 << 16  # of a grammar's text
MOST_DEPTH = 64  # of a schema as JSON; its parser stops at 128
MOST_REPEATS = 10_000  # characters that a regular expression's counted repetitions unfold to
MOST_FIELDS = 500  # properties of an object that may be left out: the grammar grows with their square
MOST_ENTRIES = 20_000  # numbers, strings, lists and objects in a schema
MOST_MULTIPLE = 1000  # an automaton counts to it
MOST_DIGITS = 18  # of a number that bounds another one
# Keywords whose value is data, no schema.
DATA = frozenset({"enum", "const", "default", "examples", "required", "type", "title", "description", "$comment"})
COUNT = re.compile(r"\{(\d*)(?:(,)(\d*))?\}")
LITERAL = re.compile(r"\"(?:[^\"\\\n]|\\.)*\"|//[^\n]*|(?<![\w/])/((?:[^/\\\n]|\\.)+)/")


def check_size(what: str, text: str) -> None:
    """Raises RequestError for a text of too many bytes."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MOST_BYTES:
        raise RequestError(f"{what} has {size} bytes; at most {MOST_BYTES} are compiled: make it smaller")


def check_schema(what: str, schema: Any) -> None:
    """Raises RequestError, which names the keyword, for a JSON schema that is deeper or larger than is compiled."""
    multiple = 1
    for count, (name, value, depth, optional) in enumerate(_walk(schema)):
        if count >= MOST_ENTRIES:
            raise RequestError(f"{what} has more than {MOST_ENTRIES} values: make it smaller")
        if depth > MOST_DEPTH:
            raise RequestError(f"{what} is nested deeper than {MOST_DEPTH} levels: make it flatter")
        if optional > MOST_FIELDS:
            raise RequestError(
                f"{what}: `properties` with {optional} that may be left out; {MOST_FIELDS} are compiled: list some in "
                "`required`"
            )
        if name == "pattern" and isinstance(value, str):
            check_regex(f"{what}: `pattern`", value)
        elif name == "patternProperties" and isinstance(value, dict):
            for pattern in value:
                check_regex(f"{what}: `patternProperties`", pattern)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            if name == "multipleOf":
                multiple *= _whole(value)
                if multiple > MOST_MULTIPLE:
                    raise RequestError(
                        f"{what}: `multipleOf` counts to {multiple:.10g} with all that are in it; {MOST_MULTIPLE} is "
                        "the most"
                    )
            elif name in BOUNDS and abs(value) >= 10**MOST_DIGITS:
                raise RequestError(f"{what}: `{name}` has more than {MOST_DIGITS} digits: leave it out")


BOUNDS = frozenset(
    {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems", "minLength", "maxLength"}
    | {"minProperties", "maxProperties", "minContains", "maxContains"}
)


def _walk(schema: Any) -> Iterator[tuple[str, Any, int, int]]:
    """The keyword, value and depth of each value of a schema, and how many properties of an object may be left out.
    Without recursion: a schema may be as deep as it likes."""
    waiting = [("", schema, 1, False)]
    while waiting:
        name, value, depth, data = waiting.pop()
        optional = 0
        if isinstance(value, dict):
            properties, required = value.get("properties"), value.get("required")
            if not data and isinstance(properties, dict):
                optional = len(properties) - (len(required) if isinstance(required, list) else 0)
            named = name in ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
            for key, one in value.items():
                waiting.append(("" if named or data else key, one, depth + 1, data or (key in DATA and not named)))
        elif isinstance(value, list | tuple):
            waiting += [("", one, depth + 1, data) for one in value]
        yield ("" if data else name), value, depth, optional


def _whole(value: float) -> int:
    """A multiple as an automaton over digits counts it: 0.05 in hundredths."""
    if not 0 < abs(value) < 10**MOST_DIGITS:
        return 1  # the compiler refuses it, or MOST_MULTIPLE does
    if abs(value) >= MOST_MULTIPLE:
        return math.ceil(abs(value))
    text = f"{abs(value):.12f}".rstrip("0").rstrip(".")
    return max(1, int(text.replace(".", "")))


def check_regex(what: str, pattern: str) -> None:
    """Raises RequestError for a regular expression whose counted repetitions unfold to too much."""
    if (found := _unfolded(pattern)) > MOST_REPEATS:
        raise RequestError(
            f"{what} {pattern[:40]!r} unfolds to {found if found < 10**12 else 'far more than 10^12'} characters by "
            f"its counted repetitions; {MOST_REPEATS} are compiled: count to less"
        )


def check_lark(what: str, text: str) -> None:
    """The same for the regular expressions of a grammar in Lark's form, and for the counts of its rules."""
    rules = list[str]()
    place = 0
    for literal in LITERAL.finditer(text):
        rules.append(text[place : literal.start()])
        place = literal.end()
        if literal[1]:
            check_regex(what, literal[1])
    rules.append(text[place:])
    for count in re.finditer(r"[~{,.]\s*(\d{4,})", "\n".join(rules)):
        if len(count[1]) > 6 or int(count[1]) > MOST_REPEATS:
            raise RequestError(f"{what}: a rule is repeated {count[1][:20]} times; {MOST_REPEATS} is the most")


def _unfolded(pattern: str) -> int:
    """Characters of a pattern with its counted repetitions written out: `(ab{3}){2}` has 8. Groups as deep as they
    like; what isn't well-formed is the compiler's to refuse."""
    outer = list[int]()  # characters before each group that is open
    total = last = 0  # of this group, and of its last item
    place, size = 0, len(pattern)
    while place < size:
        sign = pattern[place]
        place += 1
        if sign == "\\":
            place += 1
            last = 1
        elif sign == "[":
            place = _behind_class(pattern, place)
            last = 1
        elif sign == "(":
            outer.append(total)
            total = last = 0
            continue
        elif sign == ")" and outer:
            last, total = total, outer.pop()
        elif sign == "{" and (count := COUNT.match(pattern, place - 1)):
            place = count.end()
            digits = max(count[1], count[3] or "", key=lambda one: (len(one), one))
            times = int(digits) if 0 < len(digits) < 10 else 10**9 if digits else 1
            total += last * max(0, times - 1)
            last *= max(1, times)
            continue
        elif sign in "*+?|":
            continue
        else:
            last = 1
        total += last
        if total > 10**15:
            return total
    return total + sum(outer)


def _behind_class(pattern: str, place: int) -> int:
    """The place behind a class of characters that begins before `place`."""
    depth, first = 1, place
    while place < len(pattern) and depth:
        sign = pattern[place]
        if sign == "\\":
            place += 1
        elif sign == "[":
            depth += 1
        elif sign == "]" and place != first and pattern[first:place] != "^":
            depth -= 1
        place += 1
    return place
