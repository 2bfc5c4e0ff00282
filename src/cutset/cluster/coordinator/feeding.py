"""Items from sources: each source is read by a thread of its own, a little ahead."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from cutset.cluster.coordinator.items import Item
from cutset.cluster.inputs import Inputs, SourceItem
from cutset.cluster.values import Array
from cutset.errors import CutsetError, RequestError
from cutset.partition.node import Value

__all__ = ["Feeder", "Inbox"]

AHEAD = 2  # items
SLICE = 0.2  # seconds


class Inbox:
    """A source that is given its items one by one, as results come: no thread stands between giver and coordinator.

    An item belongs to the state that its giver knew: `lost` counts the losses (`StateLost`) that it had heard of. One
    that is older than the coordinator's own count is dropped, as those that were on their way are.
    """

    def __init__(self, value: Value) -> None:
        self.error: CutsetError | None = None
        self.lost = 0  # the coordinator's
        self._value = value
        self._items: queue.SimpleQueue[tuple[Array, int]] = queue.SimpleQueue()
        self._numbers = 0
        self._open = True
        self.notify: Callable[[], None] = lambda: None

    def put(self, array: Array, lost: int = 0) -> None:
        """Gives an item, which nobody changes any more. From any thread. Raises RequestError for what isn't one."""
        value = self._value
        right = array.shape == value.shape or (value.bounded and array.ndim == 1 and array.size <= value.nbytes)
        if not right or array.dtype.name != value.dtype:
            raise RequestError(
                f"an item is {array.dtype} {list(array.shape)}; this run is for {'at most ' if value.bounded else ''}"
                f"{value.dtype} {list(value.shape)}"
            )
        self._items.put((array, lost))
        self.notify()

    def take(self) -> Item | None:
        """The next item of the present state, if there is one already."""
        while True:
            try:
                array, lost = self._items.get_nowait()
            except queue.Empty:
                return None
            if lost >= self.lost:
                break
        number, self._numbers = self._numbers, self._numbers + 1
        now = time.monotonic()
        return Item(0, number, SourceItem(array), now, now)

    @property
    def dry(self) -> bool:
        """Nothing will come any more."""
        return not self._open and self._items.empty()

    def close(self) -> None:
        """Nothing will come any more; what was given still counts."""
        self._open = False
        self.notify()


class Feeder:
    """Reads one source; `inputs` says what its things are. `notify` is called when something changed.

    With `rate`, items come no faster than that, counted from when the first one is taken, and one that nobody takes in
    time waits: whether it is then too old is for the deadline to say.

    Of a source that is `live` the next item is read when the one before it was taken, not ahead: it drops the oldest
    itself, and what waited here would grow old.

    An item is captured when its source says (`captured`, of what is live), else when it is due at the rate, else when
    it is read. What was read ahead before the run could take items counts from when it could.
    """

    def __init__(
        self,
        number: int,
        source: Iterable[Any],
        value: Value,
        inputs: Inputs,
        notify: Callable[[], None],
        rate: float | None = None,
    ) -> None:
        self.number = number
        self.error: CutsetError | None = None
        self.over = False
        self._source, self._value, self._inputs = source, value, inputs
        self._notify, self._rate = notify, rate
        self._ready: queue.Queue[tuple[Item, bool]] = queue.Queue(AHEAD)  # and whether it is live
        self._open = True
        self._began = 0.0  # when the first item was taken
        self._begun = threading.Event()
        self._live = bool(getattr(source, "live", False))
        self._wanted = threading.Event()
        self._wanted.set()
        self._thread = threading.Thread(target=self._read, name=f"cutset-source-{number}", daemon=True)
        self._thread.start()

    def take(self) -> Item | None:
        """The next item, if there is one already."""
        try:
            item, live = self._ready.get_nowait()
        except queue.Empty:
            return None
        self._wanted.set()
        if not self._begun.is_set():
            self._began = time.monotonic()
            self._begun.set()
        if not live:
            item.captured = max(item.captured, self._began)
        return item

    @property
    def dry(self) -> bool:
        """Nothing will come any more."""
        return self.over and self._ready.empty()

    def close(self) -> None:
        """Ends the thread at its next item. The source is the caller's to close."""
        self._open = False

    def _read(self) -> None:
        try:
            for number, thing in enumerate(self._things()):
                due = None
                if self._rate and number:
                    while self._open and not self._begun.wait(SLICE):
                        continue
                    due = self._began + number / self._rate
                    self._sleep(due)
                item, live = self._item(number, thing, due)
                while self._open:
                    try:
                        self._wanted.clear()
                        self._ready.put((item, live), timeout=SLICE)
                        self._notify()
                        break
                    except queue.Full:
                        continue
                while self._live and self._open and not self._wanted.wait(SLICE):
                    continue
                if not self._open:
                    return
        except CutsetError as error:
            self.error = error
        except Exception as error:  # a source is anyone's iterable
            self.error = RequestError(f"source {self.number} failed: {type(error).__name__}: {str(error)[:300]}")
            self.error.__cause__ = error
        finally:
            self.over = True
            self._notify()

    def _things(self) -> Iterator[Any]:
        for thing in self._source:
            if not self._open:
                return
            yield thing

    def _item(self, number: int, thing: Any, due: float | None) -> tuple[Item, bool]:
        value, given = self._value, self._inputs.read(thing)
        array: Array = np.array(given.array, order="C")  # a copy: sources reuse theirs
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if array.shape == value.shape[1:] and value.shape[0] == 1:
            array = array[np.newaxis]
        if array.shape != value.shape or array.dtype.name != value.dtype:
            raise RequestError(
                f"item {number} of source {self.number} is {array.dtype} {list(array.shape)}; this run is for "
                f"{value.dtype} {list(value.shape)}"
            )
        now, said = time.monotonic(), given.captured
        captured = said if said is not None else now if due is None else due
        at = now if given.time is None else given.time
        return Item(self.number, number, given._replace(array=array), at, captured), said is not None

    def _sleep(self, until: float) -> None:
        while self._open and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, SLICE))
