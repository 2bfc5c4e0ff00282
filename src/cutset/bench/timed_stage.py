"""A stage that notes when its kernels run, for what a hop costs: `cutset stage` but for that.

PYTHON -m cutset.bench.timed_stage FILE --listen ADDRESS [--model MODEL] …

FILE gets two float64 for each step, the times of `time.monotonic()` at which its kernels began and ended, 0 for steps
that were never run.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cutset.bench.stage_workers import MOST_STEPS
from cutset.cluster.values import Array
from cutset.cluster.worker.worker import open_worker
from cutset.engine.stage_probe import ProbeStage
from cutset.engine.stage_runtime import LinkedStage, StageRuntime
from cutset.partition.graph import Graph

__all__ = ["TimedRuntime"]


class _TimedRope:
    """Rotary tables that note when they were asked: they are looked up just before the kernels run."""

    def __init__(self, rope: Any) -> None:
        self._rope, self.at = rope, 0.0

    def rows(self, *args: Any) -> Any:
        """As the rope's."""
        found = self._rope.rows(*args)
        self.at = time.monotonic()
        return found


class _TimedExecutor:
    """A native executor whose `forward` is timed."""

    def __init__(self, executor: Any, times: Any) -> None:
        self._executor, self._times, self._steps = executor, times, 0
        executor.rope = self._rope = _TimedRope(executor.rope)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def forward(self, *args: Any, **more: Any) -> Any:
        """As the executor's."""
        began = time.monotonic()
        found = self._executor.forward(*args, **more)
        # What was prepared needs no tables any more.
        self._note(self._rope.at if more.get("prepared") is None else began, time.monotonic())
        return found

    def close_step(self, cache: Any, step: Any, end: Any, sent: bool) -> Any:
        """As the executor's, of a step that native code ran."""
        if end is not None and end.ran:
            self._note(end.came, end.ended)
        return self._executor.close_step(cache, step, end, sent)

    def _note(self, began: float, ended: float) -> None:
        if self._steps < len(self._times):
            self._times[self._steps] = began, ended
        self._steps += 1


class TimedRuntime(StageRuntime):
    """Its stages write the times of their steps into `times`, (steps, 2)."""

    def __init__(self, threads: int, times: Any) -> None:
        super().__init__(threads)
        self._times = times

    def stage(
        self, graph: Graph, nodes: Collection[int], weights: Mapping[str, Array], runtime: str = ""
    ) -> LinkedStage | ProbeStage:
        """See Runtime."""
        made = super().stage(graph, nodes, weights, runtime)
        if isinstance(made, LinkedStage):
            made.stage.executor = _TimedExecutor(made.stage.executor, self._times)
        return made


def main() -> None:
    """Serves coordinators until a signal."""
    parser = argparse.ArgumentParser()
    parser.add_argument("times", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--key")
    parser.add_argument("--allow")
    args = parser.parse_args()
    times = np.memmap(args.times, np.float64, "w+", shape=(MOST_STEPS, 2))
    runtime = TimedRuntime(args.threads, times)
    worker = open_worker(args.listen, runtime, threads=args.threads, key=args.key, allow=args.allow, weights=args.model)
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
    try:
        worker.serve(lambda: bool(stop))
    finally:
        worker.close()


if __name__ == "__main__":
    main()
