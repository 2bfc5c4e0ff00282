"""One item's way from its capture to its result, without gaps: its parts sum to the latency."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from cutset.cluster.trace.lanes import Timeline
from cutset.cluster.trace.spans import Kind, Span

__all__ = ["Part", "Placed", "Segment", "by_item", "path"]

Part = Kind | Literal["transfer", "queue"]

# What an item is said to do where several spans of it overlap: the first of these.
PRIORITY: tuple[Kind, ...] = ("compute", "decode", "encode", "capture", "deliver", "receive", "send", "wait")

Placed = tuple[str, Span]  # party and span


@dataclass(frozen=True)
class Segment:
    """A piece of an item's latency. `transfer` is time on the link; `queue` is time in which nothing was done for it,
    before `party` went on; `behind` is the item that the party was busy with then, if there was one.
    """

    start: float
    end: float
    party: str
    part: Part
    behind: tuple[int, ...] = ()

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start


def by_item(timeline: Timeline) -> dict[tuple[int, int], list[Placed]]:
    """Spans by (source, number), items in order of their first span, spans in order of their start."""
    found: dict[tuple[int, int], list[Placed]] = defaultdict(list)
    for party, spans in timeline.items():
        for span in spans:
            found[span.source, span.number].append((party, span))
    for own in found.values():
        own.sort(key=lambda placed: (placed[1].start, placed[1].end))
    return dict(sorted(found.items(), key=lambda item: item[1][0][1].start))


def path(placed: Sequence[Placed], timeline: Timeline | None = None) -> tuple[Segment, ...]:
    """The segments of one item's spans, in order and without gaps from its first start to its last end.

    With the whole `timeline` queues say what they wait behind.
    """
    merged: list[Segment] = []
    for segment in _pieces(placed):
        last = merged[-1] if merged else None
        if last and (last.party, last.part) == (segment.party, segment.part):
            merged[-1] = Segment(last.start, segment.end, last.party, last.part)
        else:
            merged.append(segment)
    return tuple(_explained(segment, placed, timeline) if timeline else segment for segment in merged)


def _pieces(placed: Sequence[Placed]) -> Iterator[Segment]:
    rank = {kind: k for k, kind in enumerate(PRIORITY)}
    times = sorted({time for _, span in placed for time in (span.start, span.end)})
    for start, end in pairwise(times):
        active = [(rank[span.kind], party, span) for party, span in placed if span.start <= start and span.end >= end]
        if active:
            _, party, span = min(active, key=lambda found: found[:2])
            yield Segment(start, end, party, span.kind)
            continue
        before = max((p for p in placed if p[1].end <= start), key=lambda p: p[1].end)
        after = min((p for p in placed if p[1].start >= end), key=lambda p: p[1].start)
        moved = before[0] != after[0] and before[1].kind == "send"
        yield Segment(start, end, after[0], "transfer" if moved else "queue")


def _explained(segment: Segment, placed: Sequence[Placed], timeline: Mapping[str, Sequence[Span]]) -> Segment:
    """A queue with the other items that its party was busy with, in the kind of work that came next."""
    if segment.part not in ("queue", "wait"):
        return segment
    following = [span for party, span in placed if party == segment.party and span.start >= segment.end]
    if not following:
        return segment
    then = min(following, key=lambda span: span.start)
    behind = {
        span.number
        for span in timeline[segment.party]
        if span.kind == then.kind
        and min(span.end, segment.end) > max(span.start, segment.start)
        and (span.source, span.number) != (then.source, then.number)
    }
    return Segment(segment.start, segment.end, segment.party, segment.part, tuple(sorted(behind)))
