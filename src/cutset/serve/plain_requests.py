"""Requests of which every field is known by name."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from cutset.serve.requests import decode_fields

__all__ = ["parse_plain"]

_Plain = TypeVar("_Plain", bound=msgspec.Struct)


def parse_plain(body: bytes, kind: type[_Plain]) -> _Plain:
    """The request in a body; what is null counts as missing. Raises ApiError that names what is wrong."""
    return decode_fields(
        body, kind, lambda fields: {name: value for name, value in fields.items() if value is not None}
    )
