"""What would take long to compile, known before: a grammar's size and depth, and what its repetitions unfold to.

A compiler in a thread can't be stopped, so what is refused here is refused in a few milliseconds, by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from cutset.errors import RequestError

__all__ = ["DATA", "MOST_BOUND", "MOST_BYTES", "MOST_DEPTH", "check_lark", "check_regex", "check_schema", "check_size"]

MOST_BYTES = 1 << 16  # of a grammar's text
MOST_DEPTH = 64  # of a schema as JSON; its parser stops at 128
MOST_REPEATS = 10_000  # characters that a regular expression's counted repetitions unfold to
MOST_FIELDS = 500  # properties of an object that may be left out: the grammar grows with their square
# A compiler that follows references or rules into each other has a stack, which ends a process where it is full.
MOST_PARTS = 200  # of a schema, that are referred to
MOST_RULES = 400  # of a grammar
MOST_BRANCHES = 4000  # of all its rules
MOST_MEETING = 2000  # the product of the sizes of patterns that must hold together
DEEP = 3  # properties within each other, as far as it is looked for patterns that meet
MOST_ENTRIES = 10_000  # numbers, strings, lists and objects in a schema
MOST_MULTIPLE = 1000  # an automaton counts to it
MOST_BOUND = 9 * 10**18  # of a number; its compiler counts with 64 bits
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
    multiple, squares, patterns, parts = 1, 0, 0, set[str]()
    for count, (name, value, depth, optional) in enumerate(_walk(schema)):
        if count >= MOST_ENTRIES:
            raise RequestError(f"{what} has more than {MOST_ENTRIES} values: make it smaller")
        if depth > MOST_DEPTH:
            raise RequestError(f"{what} is nested deeper than {MOST_DEPTH} levels: make it flatter")
        squares += max(0, optional) ** 2
        if squares > MOST_FIELDS**2:
            raise RequestError(
                f"{what}: `properties` with more than {MOST_FIELDS} that may be left out aren't compiled: list some in "
                "`required`"
            )
        if name == "$ref" and isinstance(value, str):
            parts.add(value)
            if len(parts) > MOST_PARTS:
                raise RequestError(f"{what}: `$ref` to more than {MOST_PARTS} parts: make it smaller")
        elif name == "pattern" and isinstance(value, str):
            check_regex(f"{what}: `pattern`", value)
            patterns += 1
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
            elif name in RANGES and abs(value) > MOST_BOUND:
                raise RequestError(f"{what}: `{name}` is beyond {MOST_BOUND}: leave it out")
            elif name in COUNTS and value >= 2**31:
                raise RequestError(f"{what}: `{name}` is more than {2**31 - 1}: leave it out")
    if patterns > 1:
        try:
            _check_meeting(what, schema)
        except RecursionError:
            raise RequestError(f"{what} refers to parts that refer to others, too deeply: make it flatter") from None


RANGES = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
COUNTS = frozenset({"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"})
_Sizes = dict[tuple[str, ...], int]  # by the place of a value: its properties' names


def _check_meeting(what: str, schema: Any) -> None:
    """Raises RequestError for patterns that must hold for the same text and together take long to compare."""
    left, known = 2 * MOST_ENTRIES, dict[str, _Sizes]()  # parts to look at; what references lead to

    def sizes(node: Any) -> _Sizes:
        """How large the patterns are for each value that a part of the schema says something of."""
        nonlocal left
        left -= 1
        if left < 0:
            raise RequestError(f"{what} refers to its parts too often, with patterns in them: make it smaller")
        found: _Sizes = {}
        if not isinstance(node, dict):
            return found
        if isinstance(node.get("pattern"), str):
            found[()] = 1 + _unfolded(node["pattern"])
        inner = [*_items(node.get("properties")), *(("", node.get(name)) for name in ("items", "additionalProperties"))]
        for name, one in inner:
            for place, size in sizes(one).items():
                if len(place) < DEEP:
                    found[name, *place] = found.get((name, *place), 0) + size
                    left -= 1
        either: _Sizes = {}
        for one in (*_listed(node.get("anyOf")), *_listed(node.get("oneOf"))):
            for place, size in sizes(one).items():
                either[place] = either.get(place, 0) + size
        meeting = [found, either, *map(sizes, _listed(node.get("allOf")))]
        target = node.get("$ref")
        if isinstance(target, str) and target.startswith("#"):
            if target not in known:
                known[target] = {}  # one that leads to itself says no more
                known[target] = sizes(_referred(schema, target))
            meeting.append(known[target])
        return _met(what, meeting)

    sizes(schema)
    for name in ("$defs", "definitions"):
        for _, one in _items(schema.get(name) if isinstance(schema, dict) else None):
            sizes(one)


def _met(what: str, meeting: list[_Sizes]) -> _Sizes:
    found: _Sizes = {}
    for one in meeting:
        for place, size in one.items():
            if place in found and found[place] * size > MOST_MEETING:
                raise RequestError(
                    f"{what}: more than one `pattern` for the same text, by `allOf` or `$ref`, and together they are "
                    "too large to compare: write one, or smaller ones"
                )
            found[place] = found.get(place, 1) * size
    return found


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _referred(schema: Any, target: str) -> Any:
    """What a reference within the schema leads to; None for nothing."""
    node = schema
    for step in target[1:].split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        node = node.get(step) if isinstance(node, dict) else None
    return node


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
    if not 0 < abs(value) < MOST_BOUND:
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
    text = _without_schemas(what, text)
    place = 0
    for literal in LITERAL.finditer(text):
        rules.append(text[place : literal.start()])
        place = literal.end()
        if literal[1]:
            check_regex(what, literal[1])
    rules.append(text[place:])
    rest = "\n".join(rules)
    for sign, most, of in (
        (":", MOST_RULES, "rules"),
        ("|", MOST_BRANCHES, "branches"),
        ("?", MOST_BRANCHES, "options"),
    ):
        if rest.count(sign) > most:
            raise RequestError(f"{what} has {rest.count(sign)} {of}; {most} is the most: make it smaller")
    for count in re.finditer(r"[~{,.]\s*(\d{4,})", rest):
        if len(count[1]) > 6 or int(count[1]) > MOST_REPEATS:
            raise RequestError(f"{what}: a rule is repeated {count[1][:20]} times; {MOST_REPEATS} is the most")


def _without_schemas(what: str, text: str) -> str:
    """A grammar without the schemas in it, which are checked."""
    kept, place, decoder = list[str](), 0, json.JSONDecoder()
    for found in re.finditer(r"%json\s*(?=[{\[tf])", text):
        if found.start() < place:
            continue
        try:
            schema, end = decoder.raw_decode(text, found.end())
        except RecursionError:
            raise RequestError(f"{what}: a schema in it is nested too deeply: make it flatter") from None
        except ValueError:
            continue  # it stands in a text, or the compiler refuses it
        check_schema(f"{what}: a schema in it", schema)
        kept.append(text[place : found.start()])
        place = end
    return "".join([*kept, text[place:]])


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
