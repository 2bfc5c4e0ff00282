"""Reads small YAML files: mappings, lists, texts, whole numbers, true, false and null, and nothing that grows or runs.

Aliases, anchors, tags and merge keys are refused: a few hundred bytes of them stand for as much as one likes. Dates,
numbers in base 60 and other spellings of numbers are refused too, where they aren't in quotes: what they mean differs
from one version of YAML to another, and some take long to read. So are fractions, unless decimals are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from cutset.errors import ConfigError

__all__ = ["parse_yaml"]

MOST_EVENTS = 20_000
MOST_DEPTH = 16
MOST_TEXT = 1 << 16  # characters of a text that isn't in quotes
NULLS = ("", "~", "null", "Null", "NULL")
WORDS = {word: word[0] in "tyo" and word != "off" for word in ("true", "false", "yes", "no", "on", "off")}
NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]{0,8})\.[0-9]{1,12}")  # means the same in every version
# What YAML 1.1 takes for something else than text: other numbers, base 60, dates and times, infinities.
ODD = re.compile(
    r"[-+]?[0-9][0-9_.,]*([eE][-+]?[0-9]+)?|[-+]?\.[0-9_]+([eE][-+]?[0-9]+)?|0[xob][0-9a-fA-F_]+"
    r"|[-+]?[0-9][0-9_]*(:[0-9]+)+(\.[0-9_]*)?|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)|=",
    re.DOTALL,
)


def parse_yaml(text: str, where: str, *, decimals: bool = False) -> Any:
    """The document in `text`, None for an empty one. Raises ConfigError, which names `where` it was.

    With `decimals` 0.25 is a number: a float.
    """
    import yaml

    loader = getattr(yaml, "CLoader", yaml.Loader)  # only its parser is used, which makes no objects
    try:
        return _document(_Events(iter(yaml.parse(text, Loader=loader)), decimals))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{where} is not valid YAML: {reason}") from error


class _Events:
    """The parser's events, a bounded number of them."""

    def __init__(self, events: Iterator[Any], decimals: bool) -> None:
        self._events, self._count, self.decimals = events, 0, decimals

    def next(self) -> Any:
        self._count += 1
        if self._count > MOST_EVENTS:
            raise ValueError(f"it has more than {MOST_EVENTS} parts")
        event = next(self._events)
        if type(event).__name__ == "AliasEvent" or getattr(event, "anchor", None) is not None:
            raise ValueError(f"{_line(event)}: anchors and aliases (& and *) are not read here: write it out")
        if getattr(event, "tag", None) not in (None, "!"):
            raise ValueError(f"{_line(event)}: tags (!) are not read here")
        return event


def _document(events: _Events) -> Any:
    events.next()  # the stream's beginning
    if type(events.next()).__name__ == "StreamEndEvent":
        return None
    value = _value(events.next(), events, 0)
    events.next()
    if type(events.next()).__name__ != "StreamEndEvent":
        raise ValueError("it has more than one document")
    return value


def _value(event: Any, events: _Events, depth: int) -> Any:
    kind = type(event).__name__
    if kind == "ScalarEvent":
        return _scalar(event, events.decimals)
    if depth >= MOST_DEPTH:
        raise ValueError(f"{_line(event)}: it is nested more than {MOST_DEPTH} deep")
    if kind == "SequenceStartEvent":
        found = []
        while type(event := events.next()).__name__ != "SequenceEndEvent":
            found.append(_value(event, events, depth + 1))
        return found
    table: dict[Any, Any] = {}
    while type(event := events.next()).__name__ != "MappingEndEvent":
        if type(event).__name__ != "ScalarEvent":
            raise ValueError(f"{_line(event)}: a key must be a text")
        key = _scalar(event, False)
        if key in table:
            raise ValueError(f"{_line(event)}: {key!r} is there twice"[:200])
        table[key] = _value(events.next(), events, depth + 1)
    return table


def _scalar(event: Any, decimals: bool) -> Any:
    text: str = event.value
    if event.style:  # in quotes, or a block of text
        return text
    if len(text) > MOST_TEXT:
        raise ValueError(f"{_line(event)}: a text of {len(text)} characters; the most without quotes is {MOST_TEXT}")
    if text in NULLS:
        return None
    if text.lower() in WORDS and text in (text.lower(), text.title(), text.upper()):
        return WORDS[text.lower()]
    if NUMBER.fullmatch(text):
        return int(text)
    if decimals and DECIMAL.fullmatch(text):
        return float(text)
    if text == "<<" or ODD.fullmatch(text):
        raise ValueError(f"{_line(event)}: {text[:40]!r} isn't read as YAML reads it: put it in quotes if it is a text")
    return text


def _line(event: Any) -> str:
    return f"line {event.start_mark.line + 1}"
