"""Where the time of a run went: what each party did, and what the latency of an item is made of."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cutset.cluster.trace.lanes import KINDS, Timeline
from cutset.cluster.trace.path import Part, Placed, Segment, by_item, path
from cutset.cluster.trace.spans import Kind, Span

__all__ = ["Latency", "PartyWork", "latencies", "mean_split", "window", "work"]


@dataclass(frozen=True)
class PartyWork:
    """One party within a window: seconds by kind (two of a kind at once count twice), seconds in which it did
    nothing at all (waiting is nothing), and the bytes that it received and sent."""

    party: str
    seconds: dict[Kind, float]
    idle: float
    received: int
    sent: int


@dataclass(frozen=True)
class Latency:
    """One item. Its segments have no gaps: their seconds sum to its latency."""

    source: int
    number: int
    segments: tuple[Segment, ...]
    delivered: bool

    @property
    def seconds(self) -> float:
        """From the capture to the result."""
        return self.segments[-1].end - self.segments[0].start if self.segments else 0.0

    @property
    def in_flight(self) -> float:
        """From the first work on it, after it has waited to be sent."""
        starts = (segment.start for segment in self.segments if segment.part not in ("capture", "queue", "wait"))
        return self.segments[-1].end - next(starts, self.segments[-1].end) if self.segments else 0.0

    def split(self) -> dict[tuple[str, Part], float]:
        """Seconds by party and part, in the order in which the item met them."""
        found: dict[tuple[str, Part], float] = defaultdict(float)
        for segment in self.segments:
            found[segment.party, segment.part] += segment.seconds
        return dict(found)


def window(timeline: Timeline) -> tuple[float, float]:
    """The first start and the last end of all spans; (0, 0) without any."""
    spans = [span for own in timeline.values() for span in own]
    return min((s.start for s in spans), default=0.0), max((s.end for s in spans), default=0.0)


def work(timeline: Timeline, begin: float, end: float) -> tuple[PartyWork, ...]:
    """What every party did from `begin` to `end`. Spans that are partly outside count for what is inside."""
    found = []
    for party, spans in timeline.items():
        inside = [span for span in spans if span.end > begin and span.start < end]
        seconds: dict[Kind, float] = dict.fromkeys(KINDS, 0.0)
        for span in inside:
            seconds[span.kind] += min(span.end, end) - max(span.start, begin)
        moved = {kind: sum(s.nbytes for s in inside if s.kind == kind) for kind in ("receive", "send")}
        idle = end - begin - _covered((s for s in inside if s.kind != "wait"), begin, end)
        found.append(PartyWork(party, seconds, idle, moved["receive"], moved["send"]))
    return tuple(found)


def _covered(spans: Iterable[Span], begin: float, end: float) -> float:
    """Seconds of the union of spans, within the window."""
    total, until = 0.0, begin
    for span in sorted(spans, key=lambda span: span.start):
        start, stop = max(span.start, until), min(span.end, end)
        if stop > start:
            total += stop - start
            until = stop
    return total


def latencies(timeline: Timeline) -> tuple[Latency, ...]:
    """Every item's, in order of their starts."""
    return tuple(
        Latency(source, number, path(placed), _delivered(placed))
        for (source, number), placed in by_item(timeline).items()
    )


def _delivered(placed: Sequence[Placed]) -> bool:
    """Whether it had a result: one was delivered, or decoded where the item was captured."""
    home = {party for party, span in placed if span.kind == "capture"}
    return any(span.kind == "deliver" or (span.kind == "decode" and party in home) for party, span in placed)


def mean_split(items: Iterable[Latency]) -> dict[tuple[str, Part], float]:
    """The mean seconds by party and part of some items; they sum to their mean latency."""
    splits = sorted((item.split() for item in items), key=len, reverse=True)  # the longest way says the order
    keys = dict.fromkeys(key for split in splits for key in split)
    return {key: statistics.fmean(split.get(key, 0.0) for split in splits) for key in keys}
