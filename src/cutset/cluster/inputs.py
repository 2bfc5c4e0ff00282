"""How the inputs of items reach the first stage: as payloads, or in another encoding that both ends are handed.

The coordinator gets an `Inputs`, a worker's `Runtime` makes an `InputDecoder`. What one says to the other (`settings`
with a plan, a `head` with every item) is opaque to this package, and bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from cutset.cluster.item_result import ItemResult
from cutset.cluster.values import Array, Bytes
from cutset.errors import ConfigError
from cutset.partition.node import Value

__all__ = ["InputDecoder", "InputEncoder", "Inputs", "PlainInputs", "SourceItem"]


class SourceItem(NamedTuple):
    """What a source gave for one item."""

    array: Array  # of the value's own dtype; the coordinator's copy
    time: float | None = None  # in the source, seconds
    captured: float | None = None  # of what is live: when it came, on the clock of `time.monotonic()`
    origin: Any = None  # what an encoding needs beside the array
    note: Any = None  # for whoever takes the result


class InputEncoder(Protocol):
    """The coordinator's end of an encoding under one plan."""

    limit: int  # bytes that an item may take

    def encode(self, source: int, number: int, given: SourceItem) -> tuple[bytes, list[Bytes]]:
        """The head and the arrays of an item. Items of a source come in order, but for those that are sent again."""


class InputDecoder(Protocol):
    """The worker's end of an encoding under one plan. One thread at a time."""

    limit: int  # bytes that an item may take: what is longer is refused before it is allocated

    def decode(self, source: int, head: bytes, arrays: Sequence[Bytes]) -> Array:
        """The input of an item. Raises FrameError for what isn't one."""


class Inputs(Protocol):
    """What a coordinator must know of what its sources give. `read` is called by any thread, the rest by one."""

    @property
    def result(self) -> type[ItemResult]:
        """What outputs are handed on as."""

    def read(self, item: Any) -> SourceItem:
        """What a source gave. Sources may overwrite theirs, so the array is a copy."""

    def keep(self, source: int, number: int, given: SourceItem, oldest: int) -> None:
        """A new item. Those of its source before `oldest` won't be sent again."""

    def check(self, encoding: str, value: Value) -> None:
        """Raises ConfigError where inputs of these sources can't be sent so."""

    def settings(self, encoding: str) -> bytes:
        """What the worker's end must know beforehand."""

    def encoder(self, encoding: str, value: Value) -> InputEncoder:
        """This side's end, for one plan."""


class PlainInputs:
    """Sources give arrays, which travel as payloads."""

    result: type[ItemResult] = ItemResult

    def read(self, item: Any) -> SourceItem:
        """The item is the array."""
        return SourceItem(np.array(item, order="C"))

    def keep(self, source: int, number: int, given: SourceItem, oldest: int) -> None:
        """Nothing of it is needed."""

    def check(self, encoding: str, value: Value) -> None:
        """Raises ConfigError for every encoding."""
        raise ConfigError(f"the plan sends inputs as {encoding}, which these sources don't have")

    def settings(self, encoding: str) -> bytes:
        """None."""
        return b""

    def encoder(self, encoding: str, value: Value) -> InputEncoder:
        """Raises ConfigError."""
        raise ConfigError(f"there is no encoding {encoding}")
