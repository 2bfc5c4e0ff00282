"""Latency and throughput by the number of pictures in flight, from the traces of several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cutset.errors import RequestError
from cutset.stream.trace.record import Trace
from cutset.stream.trace.table import Latency, latencies
from cutset.stream.views.figure import BLUE, ORANGE

__all__ = ["draw", "in_flight", "latency"]

NOTE = "in flight"  # what a trace says of itself


def in_flight(pictures: Sequence[Latency]) -> int:
    """The most pictures that were on their way at once."""
    ends = [(p.segments[-1].end - p.in_flight, 1) for p in pictures if p.segments]
    ends += [(p.segments[-1].end, -1) for p in pictures if p.segments]
    now = most = 0
    for _, change in sorted(ends):  # at one moment, those that end before those that begin
        now += change
        most = max(most, now)
    return most


def latency(traces: Mapping[str, Trace]) -> dict[str, Any]:
    """One row a trace, in order of the number in flight: as the trace says, or as it was. Seconds.

    Raises RequestError for a trace without a delivered picture.
    """
    rows: list[dict[str, Any]] = []
    for name, trace in traces.items():
        done = [picture for picture in latencies(trace.timeline) if picture.delivered and picture.segments]
        if not done:
            raise RequestError(f"{name}: no picture of this trace has a result")
        said = trace.notes.get(NOTE, "")
        seconds = np.array([picture.in_flight for picture in done])
        wall = max(p.segments[-1].end for p in done) - min(p.segments[0].start for p in done)
        rows.append(
            {
                "run": name,
                "in_flight": int(said) if said.isdecimal() else in_flight(done),
                "pictures": len(done),
                "latency": {str(p): float(np.percentile(seconds, p)) for p in (10, 50, 90)},
                "throughput": len(done) / wall if wall else 0.0,
            }
        )
    rows.sort(key=lambda row: row["in_flight"])
    return {"view": "latency", "title": "Latency and throughput by pictures in flight", "rows": rows, "size": (9, 5)}


def draw(figure: Any, data: Mapping[str, Any]) -> None:
    axes = figure.add_subplot()
    places = np.arange(len(data["rows"]))
    middle = np.array([row["latency"]["50"] for row in data["rows"]]) * 1e3
    low = middle - np.array([row["latency"]["10"] for row in data["rows"]]) * 1e3
    high = np.array([row["latency"]["90"] for row in data["rows"]]) * 1e3 - middle
    axes.bar(places, middle, 0.55, color=BLUE, yerr=[low, high], ecolor="grey", capsize=4)
    axes.set_ylabel("from sending to result, ms: median, 10 to 90 %", color=BLUE)
    axes.set_xticks(places, [f"{row['in_flight']}\n{row['run']}" for row in data["rows"]])
    axes.set_xlabel("pictures in flight, and the run")
    other = axes.twinx()
    other.plot(places, [row["throughput"] for row in data["rows"]], "o-", color=ORANGE)
    other.set_ylabel("pictures a second", color=ORANGE)
    other.set_ylim(0, None)
    other.grid(visible=False)
