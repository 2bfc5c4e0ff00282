"""Reads JSON into structs: whatever is wrong with it, text, nesting, types or numbers, is one error."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from cutset.errors import ConfigError

__all__ = ["MALFORMED", "read_bytes", "read_struct"]

T = TypeVar("T")

# What msgspec raises for bytes that aren't what they should be; strings are decoded where they are needed.
MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def read_bytes(path: Path, limit: int, what: str) -> bytes:
    """A file of at most `limit` bytes. `what` it is, in errors: "plan". Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:  # a ValueError: a zero byte in the path
        raise ConfigError(f"can't read the {what} {path}: {getattr(error, 'strerror', error)}") from None
    if len(data) > limit:
        raise ConfigError(f"{path} is too large for a {what}, of which {limit >> 10} KiB are read")
    return data


def read_struct(data: bytes, kind: type[T], wrong: str) -> T:
    """A struct of this kind. Raises ConfigError: `wrong`, and why."""
    try:
        return msgspec.json.decode(data, type=kind)
    except MALFORMED as error:
        raise ConfigError(f"{wrong}: {error}") from None
