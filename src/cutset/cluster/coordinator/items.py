"""Items that wait or are in flight, and the order in which their results are delivered."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cutset.cluster.inputs import SourceItem
from cutset.cluster.item_result import ItemResult
from cutset.cluster.messages import Report
from cutset.cluster.values import Array

__all__ = ["Item", "Items"]


@dataclass(eq=False)
class Item:
    """An item, from when its source gave it until its result is delivered."""

    source: int
    number: int  # in its source, from 0: its name on every hop, in every report and in the result
    given: SourceItem
    time: float  # in the source, seconds
    captured: float
    sent: float = 0.0
    plan: int = -1  # by which it is in flight; -1: it isn't
    attempts: int = 0
    report: Report | None = None  # this side's, of the last sending
    result: ItemResult | None = None

    @property
    def in_flight(self) -> bool:
        """It was sent, and neither came back nor got lost."""
        return self.plan >= 0


class Items:
    """All items that were taken from the sources and not delivered. An item is in flight once at a time."""

    def __init__(self, result: type[ItemResult] = ItemResult) -> None:
        self._result = result
        self._queues: dict[int, deque[Item]] = {}
        # By plan, source and number: when what was delivered, but is still in flight, was sent.
        self._abandoned: dict[tuple[int, int, int], float] = {}

    def __iter__(self) -> Iterator[Item]:
        for queue in self._queues.values():
            yield from queue

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def take(self, item: Item) -> None:
        """A new item; those of a source come in order."""
        self._queues.setdefault(item.source, deque()).append(item)

    def oldest(self, source: int) -> int:
        """The number of the first item of a source that was not delivered; 0 without any."""
        queue = self._queues.get(source)
        return queue[0].number if queue else 0

    def waiting(self) -> list[Item]:
        """Those to be sent, the oldest first."""
        return sorted((item for item in self if not item.in_flight and item.result is None), key=lambda i: i.captured)

    def send(self, item: Item, plan: int, now: float) -> None:
        """Marks an item as sent."""
        item.plan, item.sent = plan, now
        item.attempts += 1

    def find(self, source: int, number: int) -> Item | None:
        """The item of this number, if it was not delivered yet."""
        return next((item for item in self._queues.get(source, ()) if item.number == number), None)

    @property
    def in_flight(self) -> int:
        """How many are in flight, those that were given up included."""
        return sum(item.in_flight for item in self) + len(self._abandoned)

    def sent(self, plan: int, source: int, number: int) -> float | None:
        """When an item that is in flight by that plan was sent, whether it was delivered or not; None for others."""
        item = self.find(source, number)
        if item is not None and item.plan == plan:
            return item.sent
        return self._abandoned.get((plan, source, number))

    def ended(self, plan: int, source: int, number: int) -> Item | None:
        """An item of that plan came back or got lost; the item, if it was not delivered yet."""
        self._abandoned.pop((plan, source, number), None)
        item = self.find(source, number)
        if item is not None and item.plan == plan:
            item.plan = -1
        return item

    def requeue(self) -> None:
        """All that are in flight must be sent again."""
        for item in self:
            item.plan = -1
        self._abandoned.clear()

    def drop(self) -> None:
        """All that have no result are over, in flight or not."""
        for queue in self._queues.values():
            queue.clear()
        self._abandoned.clear()

    def oldest_plan(self) -> int | None:
        """The lowest number of a plan by which an item is in flight."""
        return min(
            [*(item.plan for item in self if item.in_flight), *(plan for plan, _, _ in self._abandoned)], default=None
        )

    def finish(self, item: Item, outputs: Mapping[str, Array], dropped: str, plan: int, now: float) -> None:
        """An item's result, or why it has none."""
        item.result = self._result(
            source=item.source,
            number=item.number,
            time=item.time,
            outputs=outputs,
            dropped=dropped,
            plan=plan,
            captured=item.captured,
            sent=item.sent or item.captured,
            done=now,
            attempts=item.attempts,
            input=item.given.array,
            note=item.given.note,
        )

    def deliver(self) -> Iterator[Item]:
        """Those whose turn it is, in order for each source."""
        for queue in self._queues.values():
            while queue and queue[0].result is not None:
                item = queue.popleft()
                if item.in_flight:
                    self._abandoned[item.plan, item.source, item.number] = item.sent
                yield item
