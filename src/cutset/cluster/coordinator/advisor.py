"""Between a run and its planner: tells the planner what was seen, and proposes a better plan when there is one."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from cutset.cluster.messages import Report
from cutset.cluster.values import Array
from cutset.errors import CutsetError
from cutset.partition.hop import Hop
from cutset.partition.live import LivePlanner
from cutset.partition.plan import Plan

__all__ = ["Advisor", "ChangeForecast"]


class ChangeForecast(Protocol):
    """Foresees how much of each value changes from item to item. Called from any thread."""

    def saw(self, array: Array) -> None:
        """The input of an item."""

    def changed(self, measured: Mapping[str, float]) -> None:
        """The share that did change, of some values."""


class Advisor:
    """Owns a LivePlanner. `plan` is the coordinator's planner, `observe` takes its reports, a thread does the rest.

    `propose(plan, why)` is called from that thread. `look`: seconds between two looks for a better plan. `forecast` is
    called with what changed of the values that are sent; whoever has the results shows it the inputs.
    """

    def __init__(
        self,
        planner: LivePlanner,
        look: float = 2.0,
        tell: Callable[[str], None] = lambda line: None,
        forecast: ChangeForecast | None = None,
    ) -> None:
        self.planner = planner
        self.forecast = forecast
        self.propose: Callable[[Plan, str], None] | None = None
        self._look, self._tell = look, tell
        self._lock = threading.Lock()  # the planner is for one thread at a time
        self._alive: Sequence[str] = ()
        self._seen: queue.SimpleQueue[tuple[Report, Plan] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="cutset-advisor", daemon=True)
        self._thread.start()

    def plan(self, alive: Sequence[str], why: str) -> Plan:
        """The plan to use now."""
        with self._lock:
            self._alive = tuple(alive)
            return self.planner(alive, why)

    def observe(self, report: Report, plan: Plan) -> None:
        """A party's report; never waits."""
        self._seen.put((report, plan))

    def carries(self, sender: str, receiver: str, hop: Hop) -> None:
        """What a connection is now estimated to carry."""
        self.planner.hop(sender, receiver, hop)

    def holds(self, worker: str, weights: Collection[str]) -> None:
        """A worker says that these weights need not be sent to it."""
        self.planner.holds(worker, weights)

    def memory(self, worker: str, nbytes: int) -> None:
        """A worker says that it may use so much, 0 for no limit."""
        self.planner.memory(worker, nbytes)

    def close(self) -> None:
        """Ends the thread."""
        self._seen.put(None)
        self._thread.join(5.0)

    def _run(self) -> None:
        looked = time.monotonic()
        while True:
            try:
                seen = self._seen.get(timeout=self._look)
                if seen is None:
                    return
                self.planner.report(*seen)
                if self.forecast is not None:
                    changed = {edge.edge: edge.changed for edge in seen[0].edges if edge.kind == "delta"}
                    self.forecast.changed(changed)
            except queue.Empty:
                pass
            if time.monotonic() - looked >= self._look and self._alive:
                try:
                    self._consider()
                except CutsetError as error:  # the plan that runs goes on
                    self._tell(f"no better plan: {error}")
                looked = time.monotonic()

    def _consider(self) -> None:
        with self._lock:
            if self.planner.current is None:
                return
            better = self.planner.look(self._alive)
            why = self.planner.explain()
        if better is not None and self.propose is not None:
            self.propose(better, why)
