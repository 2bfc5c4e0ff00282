"""`cutset bench stream`: plays a video through workers by one plan, and says how long that took and what was sent.

Pictures go alone first, each when the result of the one before is there: that is a picture's latency. Then as many are
on their way as are allowed, for the time between pictures. The first pictures of each phase don't count.
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.cluster.coordinator.coordinator import Coordinator
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.emulation import Hop
from cutset.cluster.item_result import ItemResult
from cutset.cluster.launch.local import LocalWorkers
from cutset.cluster.messages import Report
from cutset.errors import CutsetError
from cutset.link import Timeouts, connect
from cutset.partition.plan import Plan
from cutset.video.network_model import NetworkModel
from cutset.video.picture_inputs import PictureInputs
from cutset.video.sources import VideoCodec

__all__ = ["IN_FLIGHT", "Played", "PlayedPictures", "play", "wait_for"]

IN_FLIGHT = 4
FIRST_ALONE, FIRST_TOGETHER = 2, 4  # pictures of each phase that don't count: keys, and a pipeline that fills


@dataclass(frozen=True)
class PlayedPictures:
    """What is played: `alone` pictures one by one and `together` at once count; `codec` is an encoded source's."""

    pictures: Sequence[Any]
    codec: VideoCodec | None
    alone: int
    together: int

    @staticmethod
    def needed(alone: int, together: int) -> int:
        """How many pictures there must be."""
        return FIRST_ALONE + alone + FIRST_TOGETHER + together

    @staticmethod
    def phases(alone: int, together: int) -> tuple[slice, slice]:
        """Which pictures count in each phase, with the one before them."""
        first, last = FIRST_ALONE - 1, FIRST_ALONE + alone + FIRST_TOGETHER - 1
        return slice(first, first + 1 + alone), slice(last, last + 1 + together)


@dataclass
class Played:
    """Seconds and bytes. `spans` are the seconds of each kind of work by party, for a picture that passed alone."""

    latency: list[float] = field(default_factory=list)
    first: float = math.nan  # of the first picture, without the preparation of the plan
    periods: list[float] = field(default_factory=list)  # of each run, between pictures with IN_FLIGHT on their way
    nbytes: list[int] = field(default_factory=list)  # of each picture but the first, on all links
    spans: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    outputs: list[NDArray[Any]] = field(default_factory=list)
    error: float = 0.0  # the largest of an output, as a share of its largest element

    def then(self, other: Played) -> Played:
        """This and another run of the same plan."""
        spans = defaultdict(list, {key: self.spans[key] + other.spans[key] for key in {*self.spans, *other.spans}})
        return Played(
            self.latency + other.latency,
            self.first,
            self.periods + other.periods,
            self.nbytes + other.nbytes,
            spans,
            max(self.outputs, other.outputs, key=len),
            max(self.error, other.error),
        )


def wait_for(workers: LocalWorkers, seconds: float = 60.0) -> None:
    """Until all of them answer. Raises LinkError."""
    for address, _ in workers.addresses.values():
        connect(address, timeouts=Timeouts(connect=seconds)).close()


class _Gate:
    """Gives each of the first pictures when the result of the one before is there, and then all."""

    def __init__(self, pictures: Sequence[Any], alone: int) -> None:
        self._pictures, self._alone = pictures, alone
        self._free = threading.Semaphore(1)
        self.open = True

    def __iter__(self) -> Iterator[Any]:
        for number, picture in enumerate(self._pictures):
            while number <= self._alone and not self._free.acquire(timeout=0.1):
                if not self.open:
                    return
            yield picture

    def came(self) -> None:
        self._free.release()


def play(
    model: NetworkModel,
    workers: LocalWorkers,
    links: Mapping[tuple[str, str], Hop],
    plan: Plan,
    what: PlayedPictures,
    *,
    deltas: bool = True,
    scale: float | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Played:
    """Runs a plan; `scale` is that of the thresholds of stages that compute what changed alone, None where none does.

    Raises CutsetError, also where a picture has no result.
    """
    alone = FIRST_ALONE + what.alone
    count = PlayedPictures.needed(what.alone, what.together) if what.together else alone
    played, reports, gate = Played(), list[Report](), _Gate(what.pictures[:count], alone)

    def observe(report: Report, plan: Plan, seconds: float) -> None:
        reports.append(report)

    coordinator = Coordinator(
        model,
        workers.addresses,
        lambda alive, why: plan,
        [gate],
        Options(deltas=deltas, in_flight=IN_FLIGHT, late=600.0, silence=30.0, delta_scale=scale),
        inputs=PictureInputs([what.codec]),
        paces=links,
        observe=observe,
        log=log,
    )
    results: list[ItemResult] = []
    try:
        while (result := coordinator.results.get()) is not None:
            if isinstance(result, CutsetError):
                raise result
            assert isinstance(result, ItemResult), "nothing is stateful here"
            if result.dropped:
                raise CutsetError(f"picture {result.number} was dropped: {result.dropped}")
            results.append(result)
            coordinator.took()
            gate.came()
    finally:
        gate.open = False
        coordinator.close()
    if len(results) != count or any(result.attempts > 1 for result in results):
        raise CutsetError(f"{len(results)} of {count} pictures came back, or some were sent twice: nothing is measured")
    played.first = results[0].transit
    played.latency = [result.transit for result in results[FIRST_ALONE:alone]]
    if what.together:
        last = results[alone + FIRST_TOGETHER - 1 :]
        played.periods = [(last[-1].done - last[0].done) / (len(last) - 1)]
    played.outputs = [np.array(result.output) for result in results]
    _count(played, reports, alone, len(plan.stages) + 1)
    return played


def _count(played: Played, reports: Sequence[Report], alone: int, parties: int) -> None:
    sent: dict[int, list[int]] = defaultdict(list)
    for report in reports:
        if report.hop is not None and report.number:
            sent[report.number].append(report.hop.nbytes)
        if FIRST_ALONE <= report.number < alone:
            for span in report.spans:
                played.spans[report.party, span.kind].append(span.end - span.start)
    # Of the last pictures some reports may come after the end.
    played.nbytes = [sum(counts) for counts in sent.values() if len(counts) == parties]
