"""What a setting may be, and how its value is found: flags over CUTSET_ variables over cutset.toml over defaults."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutset.errors import ConfigError

__all__ = ["Option", "did_you_mean", "gather", "parse_toml", "read_bounded"]

# A name of so many parts takes tomllib a time that grows with their square, and more: 64 KB are 11 seconds.
DOTTED = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){51}""")
WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
MOST_LISTED = 400  # characters of a list of names
TABLES = ("stream",)  # in cutset.toml, for settings of one kind
ANY_TEXT = r"[^\0\n]{1,4096}"
MOST_VALUES = 256  # of one setting


@dataclass(frozen=True, slots=True)
class Option:
    """What a setting may be: `low` and `high` bound numbers, `choices` or a regex `pattern` texts.

    A `flag_only` setting decides what is guaranteed to the user: a file or variable left from before can't change it.
    Where a setting has a `strict` value, which promises more, a variable can't take back what a file says, nor a
    cutset.toml of the current directory what the user's own one says; a flag can.
    """

    help: str
    name: str = ""
    default: Any = None  # None: the setting may be left open
    type: Any = None  # of a value, where the default doesn't say it; None with such a default: a path
    choices: tuple[str, ...] = ()
    pattern: str = ""  # where the choices can't all be listed
    expected: str = "a text"  # what the pattern says, in words
    low: float = 0
    high: float = 1 << 24
    unit: str = ""  # of numbers, in errors
    separator: str = ""  # with it a setting is a tuple of values, which stands between them in a text
    counts: int = 0  # of a tuple: a whole number from 1 to this may stand in its place
    metavar: str = ""
    flag_only: bool = False
    strict: Any = None
    table: str = ""  # of cutset.toml; a part of the variable's name, too
    group: str = "settings"  # the heading over its flag in `--help`

    @property
    def kind(self) -> Any:
        """`str`, `int`, `float`, `bool` or `Path`: of the value, or of each one in a tuple."""
        return self.type or (Path if self.default is None else type(self.default))

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return "CUTSET_" + self.key.replace(".", "_").upper()

    @property
    def key(self) -> str:
        """Its name in cutset.toml, with the table's."""
        return f"{self.table}.{self.name}" if self.table else self.name

    @property
    def expects(self) -> str:
        """What a value must be, in words."""
        if self.counts:
            return f"a whole number from 1 to {self.counts}, or names with {self.separator!r} between them"
        several = f", or several with {self.separator!r} between them" if self.separator else ""
        bounds = "above 0" if 0 < self.low < 1e-6 else f"from {self.low:.12g}"
        bounds += f" to {self.high:.12g}" if self.high < 1e9 else ""
        numbers = f"number{self.unit and f' of {self.unit}'} {bounds}"
        words = "one of " + ", ".join(choice for choice in self.choices if choice) if self.choices else self.expected
        kinds = {int: f"a whole {numbers}", float: f"a {numbers}", bool: "true or false", Path: "a path"}
        return kinds.get(self.kind, words) + several

    def from_text(self, text: str, where: str, base: Path) -> Any:
        """The value that `text` spells; a path is relative to `base`. Raises `ConfigError`."""
        if self.counts and re.fullmatch(r"\s*[0-9]{1,18}\s*", text):
            return self.check(int(text), where)
        if self.separator:
            parts = [part.strip() for part in text.split(self.separator)]
            return self.check([self._one(part, base) for part in parts if part], where)
        return self.check(self._one(text, base), where)

    def _one(self, text: str, base: Path) -> Any:
        """What one value's text spells, or the text where it spells none."""
        if self.kind is int and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", text):
            return int(text)
        if self.kind is float:
            with suppress(ValueError):
                return float(text)
        if self.kind is bool:
            return WORDS.get(text.strip().lower(), text)
        if self.kind is Path and text and "\0" not in text:
            return base / os.path.expanduser(text)
        return text

    def check(self, value: Any, where: str) -> Any:
        """`value`, lists as tuples and numbers as the type says; or `ConfigError` that names `where` it was given."""
        if value is None and self.default is None:
            return None
        if self.counts and type(value) is int and 1 <= value <= self.counts:
            return value
        if self.separator and isinstance(value, list | tuple) and len(value) <= MOST_VALUES:
            return tuple(self._checked(each, where) for each in value)
        return self._checked(value, where, good=not self.separator)

    def _checked(self, value: Any, where: str, *, good: bool = True) -> Any:
        if self.kind is float and type(value) is int and abs(value) < 1 << 53:
            value = float(value)
        good = good and (
            isinstance(value, Path) if self.kind is Path else type(value) is self.kind
        )  # True is no number
        if good and self.kind in (int, float):
            good = self.low <= value <= self.high
        if good and self.kind is str:
            pattern = self.pattern or ("" if self.choices else ANY_TEXT)
            good = bool(re.fullmatch(pattern, value)) if pattern else value in self.choices
        if good:
            return value
        short = isinstance(value, str | float) or (isinstance(value, int) and abs(value) < 1 << 63)
        shown = repr(value)[:60] if short else f"a value of type {type(value).__name__}"
        raise ConfigError(f"{where} must be {self.expects}, not {shown}")


def gather(
    options: Mapping[str, Option],
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    file: Path | None,
    cwd: Path,
    hidden: Iterable[Path] = (),
) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and sources of `options`, all of one table. Raises `ConfigError` for wrong values and for unknown keys.

    `hidden`: files of which only strict values count, since `file` stands before them."""
    table = next(iter(options.values())).table
    content = {} if file is None else _read_table(file, table)
    promises = {path: _read_table(path, table) for path in hidden}
    origin = f"{file.name} ({file})" if file else ""
    for key in (key for key in (*flags, *content) if key not in options):
        place = "" if key in flags else f" in {f'[{table}] of ' if table else ''}{origin}"
        raise ConfigError(f"{key!r}{place} is not a setting{did_you_mean(key, options)}")
    values, sources = {}, {}
    for name, option in options.items():
        text, inside = environ.get(option.variable), name in content
        if option.flag_only and (text or inside):
            place = option.variable if text else f"{option.key} in {origin}"
            raise ConfigError(f"{place} is not accepted: give {option.flag} on the command line, where it is seen")
        value, where, source, base = option.default, name, "default", cwd
        if (given := flags.get(name)) is not None:
            value = given
            where = source = option.flag if given is not False else "--no-" + option.flag[2:]
        elif text:
            value, where, source = text, option.variable, option.variable
        elif inside and file:
            value, where, source, base = content[name], f"{option.key} in {origin}", origin, file.parent
        values[name] = _spelled(option, value, where, base, typed=source == origin)
        sources[name] = source
        if option.strict is not None and flags.get(name) is None and value != option.strict:
            for path, said in ((file, content), *promises.items()):
                if path is not None and said.get(name) == option.strict:
                    values[name], sources[name] = option.strict, f"{path.name} ({path})"
                    break
    return values, sources


def _spelled(option: Option, value: Any, where: str, base: Path, *, typed: bool) -> Any:
    """The checked value. TOML has types of its own (`typed`), but for paths; flags and variables are text."""
    if isinstance(value, str) and (not typed or option.kind is Path or option.separator):
        return option.from_text(value, where, base)
    if isinstance(value, list | tuple) and option.separator:
        value = [option._one(each, base) if isinstance(each, str) else each for each in value]
    return option.check(value, where)


def _listed(names: Iterable[str]) -> str:
    """As many of them as fit into a line or two."""
    whole = ", ".join(names)
    return whole if len(whole) <= MOST_LISTED else whole[:MOST_LISTED].rpartition(", ")[0] + ", …"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the nearest known one, or else those that there are."""
    import difflib

    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {_listed(names)}" if names else ""


def read_bounded(path: Path, limit: int = 1 << 20) -> str:
    """The text of a small file. Raises `ConfigError` when it can't be read, isn't UTF-8 or has over `limit` bytes."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise ConfigError(f"{path} is larger than {limit} bytes, the most that is read")
        return data.decode("utf-8")
    except (OSError, ValueError) as error:  # a ValueError: not UTF-8, or a zero byte in the path
        raise ConfigError(f"{path} can't be read: {getattr(error, 'strerror', error)}") from error


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The document in `text`. Raises `ConfigError`, which names `where` it was."""
    import tomllib

    try:
        if DOTTED.search(text):
            raise ValueError("a name has more than 50 parts")
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a syntax error, or a number of thousands of digits
        raise ConfigError(f"{where} is not valid TOML: {error}") from None


def _read_table(path: Path, name: str) -> dict[str, Any]:
    """One table of a cutset.toml, {} where it isn't there; without a name what stands in none. Raises `ConfigError`."""
    content = parse_toml(read_bounded(path), str(path))
    for table in TABLES:
        if not isinstance(content.get(table, {}), dict):
            raise ConfigError(f"{table} in {path.name} ({path}) must be a table, [{table}]")
    found: dict[str, Any] = content.get(name, {})
    return found if name else {key: value for key, value in content.items() if key not in TABLES}
