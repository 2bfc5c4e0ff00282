"""The lanes of a party: one for each kind of work, and more where it does several of a kind at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cutset.cluster.trace.spans import Kind, Span

__all__ = ["KINDS", "Lane", "Timeline", "lanes"]

# Party to its spans on one clock, in the order in which the parties are shown.
Timeline = Mapping[str, Sequence[Span]]

# The kinds in the order in which an item meets them.
KINDS: tuple[Kind, ...] = ("capture", "wait", "receive", "decode", "compute", "encode", "send", "deliver")
ROUNDING = 1e-9  # seconds that two spans may overlap and still stand one after another


@dataclass(frozen=True)
class Lane:
    """Spans in order of time that don't overlap. Of two of a kind at once, the second is in `send 2`."""

    name: str
    spans: tuple[Span, ...]


def lanes(spans: Iterable[Span]) -> tuple[Lane, ...]:
    """Spans of one party, each in the first lane of its kind that is free when it starts."""
    rows: dict[Kind, list[list[Span]]] = {kind: [] for kind in KINDS}
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        own = rows[span.kind]
        free = next((row for row in own if row[-1].end <= span.start + ROUNDING), None)
        if free is None:
            own.append([span])
        else:
            free.append(span)
    return tuple(
        Lane(kind if number == 0 else f"{kind} {number + 1}", tuple(row))
        for kind, found in rows.items()
        for number, row in enumerate(found)
    )
