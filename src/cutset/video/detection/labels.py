"""Names of classes: from a file, or from what a model's file says of itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cutset.config import read_bounded
from cutset.errors import ConfigError, printable

__all__ = ["labels_of", "read_labels"]

MOST_LABELS = 100_000
LONGEST = 200  # characters of a name
MOST_TEXT = 1 << 20  # characters of metadata
NUMBERED = re.compile(r"\s*([0-9]{1,6})(?:\s*[:,=]\s*|\s+)(\S.*?)\s*")
NUMBER = re.compile("[0-9]{1,6}")
TEXTS = re.compile(r"""'(?:[^'\\\n]|\\.)*+'|"(?:[^"\\\n]|\\.)*+\"""")
PLAIN = re.compile(r"[\s0-9,:]*+[\[{(][\s0-9,:]*+[\]})][\s,]*+")  # one list or dictionary, once its texts are taken out


def read_labels(path: Path) -> tuple[str, ...]:
    """A name a line, or lines that begin with the class's number ("0 person"), as Frigate's label maps have.

    Numbers that no line has are named after themselves. Raises ConfigError.
    """
    lines = [line for line in read_bounded(path).splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise ConfigError(f"--labels: {path} has no name of a class")
    found = [NUMBERED.fullmatch(line) for line in lines]
    pairs = {int(match[1]): match[2] for match in found if match}
    if len(pairs) < len(lines):  # names that begin with a number, or none that do
        pairs = {i: line.strip() for i, line in enumerate(lines)}
    if (most := max(pairs)) >= MOST_LABELS:
        raise ConfigError(f"--labels: {path} names class {most}; classes are numbered up to {MOST_LABELS - 1:,}")
    return _named(pairs)


def labels_of(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The names in a model's metadata, as exporters of YOLO write them: the text of a dictionary or list. () for none,
    and for what isn't one; nothing in it is run."""
    text = metadata.get("names", "")
    if not isinstance(text, str) or len(text) > MOST_TEXT or not PLAIN.fullmatch(TEXTS.sub("", text)):
        return ()
    try:
        value: Any = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ()
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if not isinstance(value, dict) or not 0 < len(value) <= MOST_LABELS:
        return ()
    if all(isinstance(key, str) and NUMBER.fullmatch(key) for key in value):  # JSON has no other keys
        value = {int(key): name for key, name in value.items()}
    right = all(
        type(number) is int and 0 <= number < MOST_LABELS and isinstance(name, str) for number, name in value.items()
    )
    return _named(value) if right else ()


def _named(pairs: Mapping[int, str]) -> tuple[str, ...]:
    names = (pairs.get(number, f"class {number}") for number in range(max(pairs) + 1))
    return tuple(printable(name, lines=False)[:LONGEST] for name in names)
