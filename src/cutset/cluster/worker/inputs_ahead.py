"""Items that come in two parts: the graph's input from the coordinator, and all else from the stage before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from cutset.cluster.codecs import Receiver
from cutset.cluster.messages import Work
from cutset.cluster.values import Array
from cutset.cluster.wire import ArrivedItem
from cutset.codec import KeyRequest
from cutset.errors import FrameError
from cutset.partition.node import Value

__all__ = ["InputsAhead", "RestOfItem"]


class RestOfItem(NamedTuple):
    """What the stage before sent of an item, and how to ask it for a key."""

    arrival: ArrivedItem
    ask: Callable[[KeyRequest], None]


class InputsAhead:
    """Whichever part comes first waits for the other one. For the thread that listens, but for `take`."""

    def __init__(self, inputs: Sequence[Value], plan: int, in_flight: int) -> None:
        self._receiver = Receiver(inputs, plan=plan)
        self._most = 2 * in_flight + 8  # parts that wait
        self._values: dict[tuple[int, int], dict[str, Array]] = {}  # by source and number
        self._rests: dict[tuple[int, int], RestOfItem] = {}

    @property
    def limit(self) -> int:
        """The most bytes of an item's input."""
        return self._receiver.limit

    def came(self, arrival: ArrivedItem) -> tuple[dict[str, Array], RestOfItem | None]:
        """Takes an item's input: its values, and the other part if that is here. Raises FrameError."""
        work = arrival.work
        key = (work.source, work.number)
        if key in self._values:
            raise FrameError(f"the input of item {work.number} came twice")
        if len(self._values) >= self._most:
            raise FrameError(f"the inputs of {len(self._values)} items wait here, more than agreed")
        values, _ = self._receiver.decode(work, arrival.arrays)
        self._values[key] = values
        return values, self._rests.pop(key, None)

    def completes(self, rest: RestOfItem) -> bool:
        """Whether an item is whole with this part; else it waits. Raises FrameError."""
        work = rest.arrival.work
        key = (work.source, work.number)
        if key in self._values:
            return True
        if key in self._rests or len(self._rests) >= self._most:
            raise FrameError(f"{len(self._rests)} items wait here for their input, more than agreed, or one came twice")
        self._rests[key] = rest
        return False

    def take(self, work: Work) -> dict[str, Array]:
        """The input of an item that is whole. From any thread. Raises FrameError for one whose input is gone."""
        values = self._values.pop((work.source, work.number), None)
        if values is None:
            raise FrameError(f"item {work.number} came twice")
        return values
