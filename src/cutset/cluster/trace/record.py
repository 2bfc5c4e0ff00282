"""Gathers the spans of all parties of a run on one clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from cutset.cluster.trace.align import Clock
from cutset.cluster.trace.lanes import Timeline
from cutset.cluster.trace.spans import Span

__all__ = ["MOST_SPANS", "Recorder", "Trace"]

MOST_SPANS = 1_000_000  # about 150 MB of file


@dataclass(frozen=True)
class Trace:
    """What all parties of a run did, on one clock. `notes` are said with it: model, plan, what is missing."""

    title: str
    timeline: Timeline
    notes: Mapping[str, str] = field(default_factory=dict)

    def only(self, first: int, last: int) -> Trace:
        """The spans of items `first` to `last`, both included."""
        timeline = {
            party: tuple(span for span in spans if first <= span.number <= last)
            for party, spans in self.timeline.items()
        }
        return Trace(self.title, timeline, self.notes)


class Recorder:
    """Takes spans as they come, each party's by its own clock; `trace` puts them on the recorder's.

    Name the parties in the order in which they shall be shown: the coordinator, then the workers. Beyond MOST_SPANS
    spans are counted and left out.
    """

    def __init__(self, title: str, parties: Iterable[str] = ()) -> None:
        self.title = title
        self.notes: dict[str, str] = {}
        self._clocks = {party: Clock() for party in parties}
        self._spans: dict[str, list[Span]] = {party: [] for party in self._clocks}
        self._settled: dict[str, list[Span]] = {}  # on our clock already
        self._room = MOST_SPANS
        self._missed = 0

    def clock(self, party: str) -> Clock:
        """The clock of a party, which wants its heartbeats. A party that restarts has a new one: see `restart`."""
        return self._clocks.setdefault(party, Clock())

    def restart(self, party: str) -> None:
        """The party is a new process, maybe on a machine that booted since: its old clock says nothing any more."""
        self._settled[party] = self._aligned(party)
        self._spans[party] = []
        self._clocks[party] = Clock()

    def add(self, party: str, spans: Iterable[Span]) -> None:
        """Takes spans of a party, by its own clock."""
        own = self._spans.setdefault(party, [])
        for span in spans:
            if self._room:
                own.append(span)
                self._room -= 1
            else:
                self._missed += 1

    def trace(self) -> Trace:
        """All of it on one clock."""
        timeline = {party: tuple(self._aligned(party)) for party in self._spans}
        notes = dict(self.notes)
        for party in timeline:
            if error := self.clock(party).uncertainty:
                notes[f"clock of {party}"] = f"known to {error * 1e3:.3g} ms"
        if self._missed:
            notes["left out"] = f"{self._missed} spans, after the first {MOST_SPANS}"
        return Trace(self.title, timeline, notes)

    def _aligned(self, party: str) -> list[Span]:
        ours = self.clock(party).ours
        moved = [
            msgspec.structs.replace(span, start=ours(span.start), end=ours(span.end))
            for span in self._spans.get(party, ())
        ]
        return self._settled.get(party, []) + moved
