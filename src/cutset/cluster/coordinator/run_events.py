"""What happens to a run, until it was taken: by the coordinator's thread, or at once by whichever it happens to."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

from cutset.cluster.coordinator.remote import RemoteEvent
from cutset.cluster.messages import Report, Reports
from cutset.cluster.wire import ArrivedItem

__all__ = ["Event", "Events"]

# What came from a worker, a report of this side, or what is to be called. None: an item may be there to be sent.
Event = RemoteEvent | Report | Callable[[], None] | None


class Events:
    """`take` is called with what came from workers, `note` with reports of this side, one by one, and `move` when
    items may be sent or delivered.

    With `at_once` an item, or room for one, is taken by whoever puts it, as long as nobody else is at it: waking up the
    coordinator's thread would take longer. What may change the plan is for that thread alone, and reports wait until it
    has time.
    """

    def __init__(
        self,
        take: Callable[[RemoteEvent], None],
        note: Callable[[Report], None],
        move: Callable[[], None],
        *,
        at_once: bool,
    ) -> None:
        self.turn = threading.Lock()  # whoever has it may take events, and use what they change
        self.failure: Exception | None = None  # with which taking one ended in another thread
        self._take_message, self._note, self._move, self._at_once = take, note, move, at_once
        self._waiting: deque[tuple[Event, bool]] = deque()  # and whether each is small
        self._reports: deque[Event] = deque()
        self._news = threading.Event()

    def put(self, event: Event, *, small: bool = False) -> None:
        """From any thread. `small`: what is to be called is soon done, and changes no plan."""
        if _is_report(event):
            self._reports.append(event)
            if not self._at_once:
                self._news.set()
            return
        small = small or event is None or (isinstance(event, RemoteEvent) and isinstance(event.message, ArrivedItem))
        self._waiting.append((event, small))
        if not self._at_once or not small or not self.turn.acquire(blocking=False):
            self._news.set()
            return
        try:
            while self._waiting and self._waiting[0][1]:
                self._take(self._waiting.popleft()[0])
            self._move()
        except Exception as error:
            self.failure = error
        finally:
            self.turn.release()
        if self._waiting or self.failure is not None:
            self._news.set()

    def report(self, reports: Iterable[Report]) -> None:
        """What this side did. Whoever calls has the turn."""
        self._reports.extend(reports)
        while self._reports and not self._at_once:
            self._take(self._reports.popleft())

    def wake(self) -> None:
        """Ends a wait."""
        self._news.set()

    def wait(self, seconds: float, idle: float) -> None:
        """For something to take; `idle` seconds, where nothing waits."""
        self._news.wait(seconds if self._waiting or self._reports else max(seconds, idle))
        self._news.clear()

    def take_all(self) -> bool:
        """Takes all that wait. Whether the plan may change by one: not by items and reports, of which there are many.
        Whoever calls has the turn."""
        decisive = False
        while self._waiting:
            event, small = self._waiting.popleft()
            decisive = decisive or not small
            self._take(event)
        while self._reports:
            self._take(self._reports.popleft())
        return decisive

    def _take(self, event: Event) -> None:
        if isinstance(event, RemoteEvent):
            self._take_message(event)
        elif isinstance(event, Report):
            self._note(event)
        elif event is not None:
            event()


def _is_report(event: Event) -> bool:
    if isinstance(event, RemoteEvent):
        return isinstance(event.message, Report | Reports)
    return isinstance(event, Report)
