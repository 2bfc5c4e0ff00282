"""What every party notes of every item: when it did what, by its own clock."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Kind", "Span"]

Kind = Literal["capture", "encode", "send", "wait", "receive", "decode", "compute", "deliver"]


class Span(msgspec.Struct, frozen=True, array_like=True):
    """One piece of work on one item. Times are seconds of the party's `time.monotonic()`, until they are aligned."""

    kind: Kind
    source: int
    number: int  # of the item in its source
    start: float
    end: float
    nbytes: int = 0  # sent or received
    name: str = ""  # of the edge or, where layers are timed, the node
