"""What a stream does, as the dashboard's events. Knows no torch: it reads graphs, plans, reports and results."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import CutsetError
from cutset.partition.estimates import LinkEstimate
from cutset.partition.graph import Graph
from cutset.partition.node import short_name
from cutset.partition.plan import COORDINATOR, Plan
from cutset.serve.events import (
    BoxState,
    GraphEvent,
    HopState,
    LayerInfo,
    LayersEvent,
    LinksEvent,
    PictureEvent,
    PlanEvent,
    SourcesEvent,
    SourceState,
    SpansEvent,
    StageLayers,
    StreamEvent,
)
from cutset.serve.hub import Hub
from cutset.serve.png import data_url

if TYPE_CHECKING:
    from cutset.cluster.messages import Report
    from cutset.serve.stream_metrics import StreamMetrics
    from cutset.video.detection import Detections
    from cutset.video.result import Result
    from cutset.video.sources import Source

__all__ = ["Explain", "StreamFeed"]

PACE_S = 0.1  # between two pictures that are shown
MOST_SPANS = 200  # of a party's report
MOST_COLUMNS = 32  # tiles across a picture
MOST_BOXES = 100
MOST_CLASSES = 100_000  # an output with more numbers is no list of classes
Explain = Callable[[Plan], tuple[float | None, Sequence[tuple[str, float]]]]


class StreamFeed:
    """Publishes a stream: `begin` it, then `report` is for `Stream(observe=)`, and `result` for each result.

    `labels` are the names of the classes; `explain(plan)` gives the seconds of a picture that a plan was expected to
    take, and other plans that were compared, by name. Only source 0 is shown. Reports before `begin` are dropped.
    """

    def __init__(
        self,
        hub: Hub,
        *,
        labels: Sequence[str] = (),
        explain: Explain | None = None,
        metrics: StreamMetrics | None = None,
    ) -> None:
        self._hub, self._labels, self.explain, self.metrics = hub, labels, explain, metrics
        self._lock = threading.Lock()  # reports and results come from different threads
        self._graph: Graph | None = None
        self._known = self._newest = 0  # plans that have been shown, the number of the last one
        self._links: dict[tuple[str, str], LinkEstimate] = {}
        self._hops: dict[tuple[str, str], HopState] = {}
        self._shown = deque[int](maxlen=64)  # pictures that are shown
        self._next = 0.0  # when another may be
        self._done = deque[float](maxlen=32)
        self._before: NDArray[Any] | None = None

    def begin(
        self,
        graph: Graph,
        *,
        model: str,
        source: str,
        workers: Sequence[str],
        mode: str = "delta",
        rate: float | None = None,
    ) -> None:
        """What runs where: the workers in the order of the line, pictures a second of the source."""
        height, width = graph.inputs[0].shape[2:]
        parties = [COORDINATOR, *workers]
        self._hub.publish(
            StreamEvent(model=model, source=source, size=(height, width), rate=rate, mode=mode, parties=parties)
        )
        self._hub.publish(GraphEvent(nodes=_nodes(graph)))
        self._graph = graph

    def sources(self, sources: Sequence[Source]) -> None:
        """What went wrong at the sources so far; from any thread."""
        self._hub.publish(
            SourcesEvent(
                sources=[
                    SourceState(source.name, faults.bad_packets, faults.lost, faults.reconnects, faults.away)
                    for source in sources
                    for faults in (source.faults,)
                ]
            )
        )

    def plans(self, known: Sequence[tuple[int, Plan, str]], picture: int = 0) -> None:
        """The coordinator's `plans` as they are now: number, plan, why. New ones are shown as from `picture` on."""
        new, self._known = known[self._known :], len(known)
        for number, plan, why in new:
            self._newest = number
            self._show(number, plan, why, picture, None, ())
            if self.explain is not None:  # may take a while, and pictures are waiting
                threading.Thread(target=self._explained, args=(number, plan, why, picture), daemon=True).start()

    def _explained(self, number: int, plan: Plan, why: str, picture: int) -> None:
        with contextlib.suppress(CutsetError):  # then the plan is shown alone
            expected, others = self.explain(plan) if self.explain is not None else (None, ())
            if number == self._newest:
                self._show(number, plan, why, picture, expected, others)

    def _show(
        self,
        number: int,
        plan: Plan,
        why: str,
        picture: int,
        expected: float | None,
        others: Sequence[tuple[str, float]],
    ) -> None:
        self._hub.publish(
            PlanEvent(
                number=number,
                stages=[StageLayers(stage.worker, list(stage.nodes)) for stage in plan.stages],
                scheduler=plan.scheduler,
                picture=plan.input or "uint8",
                since=picture,
                why=why,
                expected_ms=None if expected is None else expected * 1e3,
                rejected=[(name, seconds * 1e3) for name, seconds in others],
            )
        )

    def report(self, report: Report, plan: Plan, seconds: float) -> None:
        """What one party did for one picture, times on the coordinator's clock; its bytes took so long to get there."""
        if report.source != 0 or self._graph is None:
            return
        chain = [COORDINATOR, *(stage.worker for stage in plan.stages), COORDINATOR]
        with self._lock:
            self._observe_hop(report, chain, seconds)
            if not self._is_shown(report.number):
                return
            # In the order in which a picture passes them.
            hops = [self._hops[pair] for pair in pairwise(chain) if pair in self._hops]
        spans: list[tuple[str, str, float, float]] = [
            (report.party, span.kind, span.start, span.end)
            for span in report.spans[:MOST_SPANS]
            if not (span.kind == "compute" and span.name)  # single layers: too fine to see
        ]
        self._hub.publish(SpansEvent(picture=report.number, spans=spans))
        maker = self._graph.maker
        changed = {maker[one.edge]: one.changed for one in report.edges if maker.get(one.edge, -1) >= 0}
        if changed:
            self._hub.publish(LayersEvent(picture=report.number, changed=changed))
        if report.hop is not None:
            self._hub.publish(LinksEvent(time=time.monotonic(), hops=hops))

    def result(self, result: Result, found: Detections | None = None) -> None:
        """A picture is done; `found` is what a detector found in it, in pixels of the source's own picture."""
        if self.metrics is not None:
            self.metrics.result(result, found)
        if result.source != 0:
            return
        self._done.append(result.done)
        before, self._before = self._before, result.pixels
        with self._lock:
            if not (self._hub.watched and self._is_shown(result.picture)):
                return
        seconds = self._done[-1] - self._done[0]
        grid, tiles = changed_tiles(before, result.pixels)
        height, width = result.pixels.shape[2:]
        self._hub.publish(
            PictureEvent(
                picture=result.picture,
                latency_ms=result.age * 1e3,
                transit_ms=result.transit * 1e3,
                rate=(len(self._done) - 1) / seconds if seconds > 0 else None,
                result=self._classes(result) if found is None else [],
                dropped=result.dropped,
                size=(height, width),
                grid=grid,
                tiles=tiles,
                image=data_url(result.pixels) if result.pixels.dtype == np.uint8 else "",
                boxes=None if found is None else _boxes(result, found),
            )
        )

    def _is_shown(self, picture: int) -> bool:
        """All parties' reports of a picture are shown, and its result, or none."""
        if picture in self._shown:
            return True
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + PACE_S
        self._shown.append(picture)
        return True

    def _observe_hop(self, report: Report, chain: Sequence[str], seconds: float) -> None:
        hop = report.hop
        if hop is None or report.party not in chain[1:]:
            return
        pair = (chain[chain.index(report.party, 1) - 1], report.party)
        link = self._links.setdefault(pair, LinkEstimate())
        link.observe(hop.nbytes, seconds)
        self._hops[pair] = HopState(
            source=pair[0],
            target=pair[1],
            bandwidth=float(link.bandwidth) if np.isfinite(link.bandwidth) else None,
            latency=float(link.latency) if link.count else None,
            nbytes=hop.nbytes,
            kind=", ".join(sorted({one.kind for one in report.received})),
        )

    def _classes(self, result: Result) -> list[tuple[str, float]]:
        if not result.outputs or result.output.ndim != 2 or result.output.size > MOST_CLASSES:
            return []
        named = dict(enumerate(self._labels))
        return [(named.get(number, f"class {number}"), share) for number, share in result.top(3)]


def _nodes(graph: Graph) -> list[LayerInfo]:
    trunk = set(graph.trunk)
    return [
        LayerInfo(node.name, short_name(node.op), node.flops, graph.cuts[i + 1].nbytes if i + 1 in trunk else None)
        for i, node in enumerate(graph.nodes)
    ]


def _boxes(result: Result, found: Detections) -> list[BoxState]:
    shown = found.in_picture(result.placement)
    return [
        BoxState(shown.label(i), float(shown.scores[i]), (float(left), float(top), float(right), float(bottom)))
        for i, (left, top, right, bottom) in enumerate(shown.boxes[:MOST_BOXES])
    ]


def changed_tiles(before: NDArray[Any] | None, now: NDArray[Any]) -> tuple[tuple[int, int], list[int]]:
    """Rows and columns of tiles of a picture (1, channels, height, width), and the changed share of each in percent.

    All of it counts as changed where there is nothing to compare with.
    """
    height, width = now.shape[2:]
    side = max(8, -(-max(height, width) // MOST_COLUMNS))
    rows, columns = -(-height // side), -(-width // side)
    if before is None or before.shape != now.shape:
        return (rows, columns), [100] * (rows * columns)
    moved = np.zeros((rows * side, columns * side), dtype=np.uint8)
    moved[:height, :width] = (before != now).any(axis=(0, 1))
    inside = np.zeros_like(moved)
    inside[:height, :width] = 1

    def sums(cells: NDArray[np.uint8]) -> NDArray[np.int64]:
        found: NDArray[np.int64] = cells.reshape(rows, side, columns, side).sum(axis=(1, 3), dtype=np.int64)
        return found

    shares = -(-100 * sums(moved) // sums(inside))  # rounded up: a single pixel shows
    return (rows, columns), [int(share) for share in shares.flat]
