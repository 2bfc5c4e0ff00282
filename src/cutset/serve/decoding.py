"""JSON bodies become requests; what is wrong with one is said by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from cutset.serve.api_errors import invalid

__all__ = ["malformed", "parse_plain"]

_Plain = TypeVar("_Plain", bound=msgspec.Struct)


def parse_plain(body: bytes, kind: type[_Plain]) -> _Plain:
    """A request of which every field is known. What is null counts as missing. Raises ApiError that names what is
    wrong."""
    with malformed():
        fields = msgspec.json.decode(body, type=dict[str, Any])
        return msgspec.convert({name: value for name, value in fields.items() if value is not None}, kind)
    raise AssertionError


@contextmanager
def malformed() -> Iterator[None]:
    """Raises ApiError 400 for what msgspec refuses in here."""
    try:
        yield
    except msgspec.ValidationError as error:
        text = str(error)
        found = re.search(r"field `([^`]*)`", text), re.search(r"`\$\.?([^`]*)`$", text)
        where = ".".join(one[1] for one in reversed(found) if one is not None and one[1])
        raise invalid(f"the request can't be used: {_short(text)}", where or None) from None
    except (ValueError, RecursionError) as error:  # malformed JSON, wrong UTF-8, brackets without end
        raise invalid(f"the body isn't valid JSON: {_short(str(error))}", code="invalid_json") from None


def _short(text: str) -> str:
    return text if len(text) <= 300 else text[:297] + "..."
