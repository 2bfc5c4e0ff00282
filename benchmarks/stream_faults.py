"""`python -m benchmarks stream`, faults: are results the dense network's while plans change and workers die?

Links and speeds are this machine's. Every result is compared with the network run here in one piece, with as many
threads. A worker that is killed is started again some pictures later; its weights are on the workers' disks.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from cutset.bench.stream_session import wait_for
from cutset.bench.stream_videos import Video
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.launch.local import LocalWorkers
from cutset.cluster.model import Model
from cutset.compare.results import Row, summarise
from cutset.errors import CutsetError
from cutset.partition.plan import Plan, StagePlan
from cutset.stream import Stream
from cutset.video.result import Result
from cutset.video.torch_model import TorchModel

__all__ = ["ERROR", "RECOVERY", "FaultSchedule", "run_faults"]

WORKERS, PLANS = 3, 6
ERROR = "error against the dense network, largest"
RECOVERY = "a worker killed: from detection to the first new payload, longest"
PATIENCE = 60.0  # seconds


@dataclass
class FaultSchedule:
    """What happens after which share of the pictures: another plan, a worker that is killed, one that is started again.

    Before a plan and a kill, no result is taken until all workers are there.
    """

    count: int
    events: deque[tuple[float, str, str]]
    lines: list[tuple[float, str]] = field(default_factory=list)
    killed: list[tuple[float, str]] = field(default_factory=list)

    @classmethod
    def spread(cls, count: int, kills: int) -> FaultSchedule:
        """Some re-plans, and after some of them a worker that is killed and started again before the next one."""
        events = [(0.05 + 0.9 * i / PLANS, "plan", str(i)) for i in range(PLANS)]
        for i in range(kills):
            share, name = events[i * PLANS // kills][0], f"worker{1 + (i + 1) % WORKERS}"
            events += [(share + 0.03, "kill", name), (share + 0.08, "start", name)]
        return cls(count, deque(sorted(events)))

    def log(self, line: str) -> None:
        self.lines.append((time.monotonic(), line))

    def detected(self, killed: float, name: str) -> float | None:
        """When the coordinator first said that something is wrong with a worker that was killed."""
        return next((at for at, line in self.lines if at >= killed and name in line), None)

    def apply_due(self, stream: Stream, workers: LocalWorkers, picture: int) -> None:
        """Does what is due after this picture."""
        while self.events and picture >= int(self.events[0][0] * self.count):
            _, event, what = self.events[0]
            self.events.popleft()
            if event != "start":
                _all_there(stream)
            if event == "plan":
                stream.coordinator.propose(moved(stream.model, workers.names, int(what)), "the benchmark wants another")
            elif event == "kill":
                self.killed.append((time.monotonic(), what))
                workers.process(what).kill()
            else:
                workers.start(what)


def moved(model: Model, names: list[str], step: int) -> Plan:
    """A plan with other boundaries for each step, of about the same work each."""
    graph, count = model.graph, len(model.graph.nodes)
    total, done, third = max(graph.flops, 1), 0, [0]
    for i, node in enumerate(graph.nodes):
        done += node.flops
        if len(third) < WORKERS and done >= total * len(third) / WORKERS:
            third.append(i + 1)
    first = min(max(third[1] + step % 3 - 1, 1), count - 2)
    second = min(max(third[-1] + step % 2, first + 1), count - 1)
    bounds = (0, first, second, count)
    stages = tuple(StagePlan(name, tuple(range(bounds[i], bounds[i + 1]))) for i, name in enumerate(names))
    return Plan(model.digest, stages, scheduler="moved")


def run_faults(
    name: str, model: TorchModel, video: Video, count: int, kills: int, log: Callable[[str], None]
) -> Iterator[Row]:
    """Rows: the error, pictures with other bits, and from a worker's death to the first new payload and result."""
    import torch

    faults = FaultSchedule.spread(count, kills)
    workload = f"{name}, {video.name}: {count} pictures, {kills} kills"
    log(f"faults: {workload}")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    errors: list[float] = []
    results: list[Result] = []
    try:
        with (
            video.open(limit=count) as source,
            LocalWorkers(WORKERS) as workers,
        ):
            workers.stock(model)
            wait_for(workers)
            options = Options(in_flight=4, silence=2.0, beat=0.1)
            begun = time.monotonic()
            with Stream(
                model,
                (p.pixels for p in source),
                workers=workers.addresses,
                scheduler="even",
                options=options,
                log=faults.log,
            ) as stream:
                for result in stream:
                    errors.append(_error(model, result))
                    results.append(result)
                    faults.apply_due(stream, workers, result.picture)
                plans = len(stream.coordinator.plans)
            seconds = time.monotonic() - begun
    finally:
        torch.set_num_threads(before)
    if [result.picture for result in results] != list(range(count)):
        raise CutsetError(f"{len(results)} of {count} pictures came back, or in another order")
    again = sum(result.attempts > 1 for result in results)
    log(f"faults: {plans} plans, {len(faults.killed)} kills, {again} pictures sent again, {seconds:.0f} s")
    yield Row(workload, "cutset", ERROR, max(errors), "rel error")
    yield Row(workload, "cutset", "results with other bits", 100 * sum(e != 0 for e in errors) / count, "%")
    sent, done = _recoveries(faults, results)
    yield summarise(workload, "cutset", "a worker killed: from detection to the first new payload, median", sent, "s")
    yield Row(workload, "cutset", RECOVERY, max(sent), "s")
    yield summarise(workload, "cutset", "a worker killed: from detection to the first new result, median", done, "s")


def _all_there(stream: Stream) -> None:
    remotes, until = stream.coordinator.remotes.values(), time.monotonic() + PATIENCE
    while not all(remote.up for remote in remotes):
        if time.monotonic() > until:
            raise CutsetError(f"a worker that was started again didn't come in {PATIENCE:g} s")
        time.sleep(0.02)


def _error(model: TorchModel, result: Result) -> float:
    """The largest difference from the dense network, as a share of its largest value."""
    if result.dropped:
        raise CutsetError(f"picture {result.picture} was dropped: {result.dropped}")
    right = next(iter(model.run(result.pixels).values()))
    if np.array_equal(right, result.output):
        return 0.0
    return float(np.abs(result.output - right).max() / np.abs(right).max())


def _recoveries(faults: FaultSchedule, results: list[Result]) -> tuple[list[float], list[float]]:
    """For each kill: seconds from its detection until a picture was sent by the next plan, and until its result."""
    sent, done = [], []
    for killed, name in faults.killed:
        at = faults.detected(killed, name)
        if at is None:
            raise CutsetError(f"nobody noticed that {name} was killed")
        last = max((result.plan for result in results if result.sent < at), default=0)
        after = [result for result in results if result.plan > last and result.sent > at]
        sent.append(min(result.sent for result in after) - at)
        done.append(min(result.done for result in after) - at)
    return sent, done
