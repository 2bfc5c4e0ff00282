"""What a stream did, in figures: gathered from results and reports on the way."""

from __future__ import annotations

import statistics
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from cutset.cluster.messages import Report
from cutset.partition.graph import Graph
from cutset.partition.plan import COORDINATOR, Plan
from cutset.video.result import Result

__all__ = ["Summary", "quantile"]


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies; between two of them, in proportion."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


@dataclass
class Summary:
    """Collects every report (from any thread) and every result."""

    latencies: list[float] = field(default_factory=list)  # from capture to the result
    transits: list[float] = field(default_factory=list)  # from the last sending to the result
    done: list[float] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    left_out: int = 0  # pictures that live sources dropped before the stream took them
    again: int = 0  # pictures that were sent more than once
    hops: dict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(list))  # bytes of each picture
    compute: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # seconds of each picture
    kinds: Counter[str] = field(default_factory=Counter)  # of payloads
    graph: Graph | None = None  # for what delta compute saved
    computed: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # operations of each picture
    of_all: dict[str, int] = field(default_factory=dict)  # operations of all layers that the party has
    _index: dict[int, int] = field(default_factory=dict)  # of the last picture of each source
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def result(self, result: Result) -> None:
        """Counts a result."""
        self.again += result.attempts > 1
        self.left_out += max(result.index - self._index.get(result.source, result.index - 1) - 1, 0)
        self._index[result.source] = result.index
        if result.dropped:
            self.dropped[result.dropped] += 1
            return
        self.latencies.append(result.latency)
        self.transits.append(result.transit)
        self.done.append(result.done)

    def report(self, report: Report, plan: Plan, seconds: float) -> None:
        """Counts what a party did for a picture under that plan."""
        names = [COORDINATOR, *(stage.worker for stage in plan.stages), COORDINATOR]
        if report.hop is None or report.party not in names[1:]:
            return
        sender = names[names.index(report.party, 1) - 1]
        with self._lock:
            self.hops[sender, report.party].append(report.hop.nbytes)
            self.kinds.update(edge.kind for edge in report.received)
            spent = [span.end - span.start for span in report.spans if span.kind == "compute"]
            if spent:
                self.compute[report.party].append(sum(spent))
            if report.shares is not None and self.graph is not None:
                nodes = sorted(next(stage.nodes for stage in plan.stages if stage.worker == report.party))
                if len(nodes) == len(report.shares):
                    flops = (self.graph.nodes[i].flops for i in nodes)
                    self.computed[report.party].append(sum(f * s for f, s in zip(flops, report.shares, strict=True)))
                    self.of_all[report.party] = sum(self.graph.nodes[i].flops for i in nodes)

    @property
    def rate(self) -> float | None:
        """Pictures a second, from the first result to the last."""
        if len(self.done) < 2 or self.done[-1] <= self.done[0]:
            return None
        return (len(self.done) - 1) / (self.done[-1] - self.done[0])

    def lines(self) -> list[str]:
        """What is said at the end."""
        found = [f"{len(self.done)} pictures, {sum(self.dropped.values())} dropped, {self.again} sent again"]
        if self.left_out:
            found.append(f"{self.left_out} pictures came faster than they were taken, and were left out")
        if self.latencies:
            speed = f", {self.rate:.2f} pictures/s" if self.rate is not None else ""
            found.append(f"latency from capture to result: {_spread(self.latencies)}{speed}")
            found.append(f"of which links and layers, from the last sending on: {_spread(self.transits)}")
        with self._lock:
            for (sender, receiver), sizes in self.hops.items():
                steady = statistics.median(sizes)
                text = f"median {steady / 1e3:.1f} kB a picture, first {sizes[0] / 1e3:.1f} kB"
                found.append(f"{sender} → {receiver}: {text}, {sum(sizes) / 1e6:.2f} MB in all")
            for party, seconds in self.compute.items():
                found.append(f"{party}: computes {statistics.median(seconds) * 1e3:.1f} ms a picture")
            for party, spent in self.computed.items():
                whole, steady = max(self.of_all[party], 1), statistics.median(spent)
                found.append(
                    f"{party}: delta compute did {sum(spent) / len(spent) / whole:.1%} of {whole / 1e9:.2f} GFLOP a "
                    f"picture, median {steady / whole:.1%}"
                )
        found += [f"dropped: {reason} ({count}×)" for reason, count in self.dropped.items()]
        return found


def _spread(seconds: Sequence[float]) -> str:
    shown = (statistics.median(seconds), "median"), (quantile(seconds, 0.95), "95 %"), (max(seconds), "largest")
    return ", ".join(f"{value * 1e3:.1f} ms ({name})" for value, name in shown)
