"""Where the time of a split run goes: laps of one clock, so that nothing between two laps is lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cutset.kernels.native import RunOutcome

__all__ = ["PARTS", "CallTimes"]

# In the order of a call. `wait` is what the accelerator's own word doesn't explain: the link, and other clients.
PARTS = (
    "quantise",
    "mask",
    "serialise",
    "send",
    "check",
    "wait",
    "accelerator",
    "unmask",
    "attention",
    "other",
)


class CallTimes:
    """Seconds by part: of the wall clock, and with `count_cpu` of the calling thread's CPU too, which takes a while to
    ask for. One thread uses it."""

    def __init__(self, *, count_cpu: bool = False) -> None:
        self.count_cpu = count_cpu
        self.wall = dict.fromkeys(PARTS, 0.0)
        self.cpu = dict.fromkeys(PARTS, 0.0)
        self.calls = self.rows = self.bytes_up = self.bytes_down = 0
        self._wall, self._cpu = time.perf_counter(), time.thread_time()

    def lap(self, part: str) -> float:
        """What passed since the last lap was `part`; gives its seconds."""
        wall = time.perf_counter()
        passed = wall - self._wall
        self.wall[part] += passed
        self._wall = wall
        if self.count_cpu:
            cpu = time.thread_time()
            self.cpu[part] += cpu - self._cpu
            self._cpu = cpu
        return passed

    def add(self, run: RunOutcome) -> None:
        """What native code measured and counted since the last lap. What is missing up to now was spent on the way
        there and back, and is `other`."""
        wall, cpu = run.wall, run.cpu
        for part, passed, used in zip(PARTS, wall, cpu, strict=True):
            self.wall[part] += passed
            self.cpu[part] += used
        self._wall += sum(wall)
        self._cpu += sum(cpu)
        self.calls += run.answered
        self.rows += run.answered_rows
        self.bytes_up += run.bytes_up
        self.bytes_down += run.bytes_down
        self.lap("other")

    def move(self, source: str, target: str, seconds: float) -> None:
        """`seconds` of wall clock that counted as `source` were `target`."""
        self.wall[source] -= seconds
        self.wall[target] += seconds
