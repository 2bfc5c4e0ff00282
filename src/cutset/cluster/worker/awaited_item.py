"""An item whose input is here and whose hidden states aren't: what is waited for, and when it is likely to come."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

from cutset.cluster.messages import Work
from cutset.cluster.values import Array
from cutset.cluster.wire import Outbox
from cutset.cluster.worker.plan_run import PlanRun
from cutset.link import Frame, Link

if TYPE_CHECKING:
    from cutset.cluster.worker.pipeline import RanItem

__all__ = ["Arrivals", "AwaitedItem", "Got", "HopWaiter", "WakeWindow"]

Got = tuple[Link, Frame]

KEPT, SIZES = 9, 8  # times that are remembered, each of items of so many sizes
EARLY = 150e-6  # seconds before anything came lately, to wake up in
SHARE = 1 / 4  # of a wait, for which a stage stays awake at most
SHORT, MOST_AWAKE = 500e-6, 4e-3  # seconds: what is short anyway, and the longest


class AwaitedItem(NamedTuple):
    """An item whose input is here: `work` brought it."""

    run: PlanRun
    work: Work
    values: dict[str, Array]
    since: float  # when it came


class HopWaiter(Protocol):
    """How the rest of such items is waited for, by the thread that listens."""

    @property
    def since(self) -> float:
        """When a step began that runs now, by `time.monotonic()`, for others; 0 where none runs."""

    def wait(self, awaited: AwaitedItem, link: Link, to: Outbox | None, timeout: float) -> RanItem | Got | bool:
        """Waits for the rest of an item from a link, and runs it: then that is to be `Pipeline.ran`. Another frame that
        came, and whose it is; or True if nothing has come. False where such items must go another way. `to`: where the
        next worker is."""


class WakeWindow(NamedTuple):
    """Seconds to sleep from now on, then to stay awake, and then to sleep again."""

    sleep: float
    awake: float
    late: float


class Arrivals:
    """When the rest of an item is likely to come, by how long it took lately from its input on.

    A core that sleeps takes longer to wake up than all else of a hop. So a stage sleeps until shortly before anything
    has come lately, and then stays awake: as long as what it waits for is computed elsewhere, and no longer than a
    quarter of that. Where nothing is on its way, nobody is awake.
    """

    def __init__(self) -> None:
        self._took: dict[int, deque[float]] = {}  # by bytes

    def observe(self, nbytes: int, seconds: float) -> None:
        """It took so long."""
        took = self._took.pop(nbytes, deque(maxlen=KEPT))
        took.append(seconds)
        self._took[nbytes] = took
        if len(self._took) > SIZES:
            del self._took[next(iter(self._took))]

    def window(self, nbytes: int, waited: float, timeout: float) -> WakeWindow:
        """How to wait on, up to `timeout`: not awake where there is nothing to go by, or that time is over."""
        took = self._took.get(nbytes)
        if took is None or len(took) < KEPT // 2:
            return WakeWindow(timeout, 0.0, 0.0)
        early, late = min(took), max(took)
        most = min(max(SHARE * early, SHORT), MOST_AWAKE)
        begins = max(early - EARLY, 0.0)
        ends = begins + min(late - begins + EARLY, most)
        sleep = max(begins - waited, 0.0)
        awake = min(ends - waited - sleep, timeout - sleep)
        if awake <= 0:
            return WakeWindow(timeout, 0.0, 0.0)
        return WakeWindow(sleep, awake, timeout - sleep - awake)
