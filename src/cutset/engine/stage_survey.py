"""What workers can do, and what lies between them: measured by plans of stages that only measure."""

from __future__ import annotations

import math
import queue
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from cutset.cluster.coordinator.coordinator import Coordinator
from cutset.cluster.coordinator.feeding import Inbox
from cutset.cluster.coordinator.plans import NoPlan
from cutset.cluster.coordinator.reach import REFUSED
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.item_result import ItemResult
from cutset.cluster.messages import Card, Report
from cutset.engine.made_up import LayerModel
from cutset.engine.stage_probe import probe_item, probe_model, read_places
from cutset.errors import CutsetError, LinkError
from cutset.partition.hop import MOST_LATENCY, Hop
from cutset.partition.plan import COORDINATOR, Plan, StagePlan

if TYPE_CHECKING:
    from cutset.engine.stage_settings import StageWorkers

__all__ = ["StageSurvey", "survey"]

WAIT = 0.05  # seconds
STEPS, SMALL, LARGE = 4, 4, 3  # items that compute, small ones and large ones; the first of each warms
SMALL_BYTES, LARGE_BYTES = 4096, 1 << 18
ANSWER = 60.0  # seconds in which an item must come back
REPORTS = 2.0  # seconds that reports may come after the results


@dataclass
class StageSurvey:
    """Of workers by name, and of connections by sender and receiver. Seconds and bytes."""

    cards: dict[str, Card] = field(default_factory=dict)
    steps: dict[str, float] = field(default_factory=dict)  # of the layers that all of them ran
    overhead: dict[str, float] = field(default_factory=dict)  # of a step beside its layers
    free: dict[str, int] = field(default_factory=dict)
    hops: dict[tuple[str, str], Hop] = field(default_factory=dict)

    def lacks(self, workers: Sequence[str]) -> bool:
        """Whether a hop of a plan over these wasn't measured."""
        return any(pair not in self.hops for pair in _pairs(workers))


def _pairs(workers: Sequence[str]) -> list[tuple[str, str]]:
    parties = [COORDINATOR, *workers, COORDINATOR]
    return list(pairwise(parties))


def survey(
    workers: StageWorkers,
    chain: Sequence[str],
    layers: LayerModel | None,
    work: tuple[int, int],
    check: Callable[[str, Card], None],
    found: StageSurvey | None = None,
) -> StageSurvey:
    """Measures the workers of a chain, and adds to what was `found` before. With `layers`, each runs `work`, so
    many steps of so many rows, on these; without them the hops alone are measured.

    `check` is called with each name and card. Raises CutsetError for a worker that can't be used.
    """
    found = StageSurvey() if found is None else found
    model = probe_model(layers, len(chain))
    inbox = Inbox(model.input)
    seen: list[tuple[Report, float]] = []
    lock = threading.Lock()

    def observe(report: Report, plan: Plan, seconds: float) -> None:
        with lock:
            seen.append((report, seconds))

    def planned(alive: Sequence[str], why: str) -> Plan:
        if absent := [name for name in chain if name not in alive]:
            raise NoPlan(f"{', '.join(absent)} can't be reached")
        stages = tuple(StagePlan(name, (i,)) for i, name in enumerate(chain))
        return Plan(model.digest, stages, scheduler="survey")

    coordinator = Coordinator(
        model,
        {name: workers.all[name] for name in chain},
        planned,
        [inbox],
        Options(deltas=False, in_flight=1, patience=workers.starting + ANSWER, silence=workers.silence, gather=0.0),
        keys=workers.keys,
        rendezvous=workers.rendezvous,
        handshake=workers.handshake(),
        locate=workers.locate,
        paces={pair: hop for pair, hop in workers.paces.items() if set(pair) <= {COORDINATOR, *chain}},
        observe=observe,
    )
    try:
        _wait_for(coordinator, workers, chain, check)
        for name in chain:
            card = coordinator.remotes[name].card
            if card is not None:
                found.cards[name] = card
        steps, rows = work
        kinds = [(steps, SMALL_BYTES)] * (STEPS if layers is not None else 0)
        kinds += [(0, SMALL_BYTES)] * SMALL + [(0, LARGE_BYTES)] * LARGE
        for count, nbytes in kinds:
            inbox.put(probe_item(len(chain), rows, count, nbytes))
            item = _next(coordinator)
        found.free |= dict(zip(chain, read_places(item.output, len(chain)), strict=True))
        end = time.monotonic() + REPORTS
        while time.monotonic() < end and len(seen) < len(kinds) * (len(chain) + 1):
            time.sleep(WAIT / 5)
    finally:
        coordinator.close()
    with lock:
        _learn(found, chain, kinds, seen)
    return found


def _learn(
    found: StageSurvey,
    chain: Sequence[str],
    kinds: Sequence[tuple[int, int]],
    seen: Sequence[tuple[Report, float]],
) -> None:
    before = dict(zip([*chain, COORDINATOR], [COORDINATOR, *chain], strict=True))
    steps: dict[str, list[float]] = {}
    own: dict[str, list[float]] = {}
    ways: dict[tuple[str, int], list[float]] = {}
    firsts = {next(i for i, other in enumerate(kinds) if other == kind) for kind in kinds}
    for report, seconds in seen:
        if report.party not in before or report.number >= len(kinds) or report.number in firsts:
            continue
        count, nbytes = kinds[report.number]
        spent = {span.kind: span.end - span.start for span in report.spans}
        if count:
            if report.party != COORDINATOR:
                steps.setdefault(report.party, []).append(spent.get("compute", 0.0) / count)
            continue
        if nbytes == SMALL_BYTES and report.party != COORDINATOR:
            own.setdefault(report.party, []).append(sum(spent.get(kind, 0.0) for kind in ("decode", "encode")))
        ways.setdefault((report.party, nbytes), []).append(max(seconds, 0.0))
    found.steps |= {name: statistics.median(times) for name, times in steps.items()}
    found.overhead |= {name: statistics.median(times) for name, times in own.items()}
    for party, sender in before.items():
        small, large = ways.get((party, SMALL_BYTES)), ways.get((party, LARGE_BYTES))
        if small and large:
            latency, more = statistics.median(small), statistics.median(large) - statistics.median(small)
            bandwidth = (LARGE_BYTES - SMALL_BYTES) / more if more > 1e-6 else math.inf
            found.hops[sender, party] = Hop(bandwidth, min(latency, MOST_LATENCY))


def _next(coordinator: Coordinator) -> ItemResult:
    try:
        came = coordinator.results.get(timeout=ANSWER)
    except queue.Empty:
        raise LinkError(f"the stages didn't answer for {ANSWER:g} s when they were measured") from None
    if not isinstance(came, ItemResult):
        raise came if isinstance(came, CutsetError) else LinkError("the stages ended while they were measured")
    coordinator.took()
    if came.dropped:
        raise LinkError(f"the stages could not be measured: {came.dropped}")
    return came


def _wait_for(
    coordinator: Coordinator,
    workers: StageWorkers,
    chain: Sequence[str],
    check: Callable[[str, Card], None],
) -> None:
    """Until items may be sent. Raises the reason why that won't be."""
    started, checked = time.monotonic(), False
    remotes = [coordinator.remotes[name] for name in chain]
    while coordinator.plan is None:
        try:
            came = coordinator.results.get(timeout=WAIT)
        except queue.Empty:
            pass
        else:
            raise came if isinstance(came, CutsetError) else LinkError("the stages ended before they were measured")
        waited = time.monotonic() - started
        for remote in () if checked else remotes:
            most = REFUSED if remote.refused else workers.starting
            if not remote.up and waited > max(most, workers.joining if remote.joins else 0.0):
                raise LinkError(f"the stage {remote.name} can't be used: {remote.why}")
            if remote.up and remote.card is not None:
                check(remote.name, remote.card)
        checked = checked or all(remote.up for remote in remotes)
        joining = workers.joining if any(remote.joins for remote in remotes) else 0.0
        if waited > max(workers.starting, joining) + ANSWER:
            raise LinkError("the stages didn't get ready to be measured")
