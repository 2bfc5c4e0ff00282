"""What runs took: latencies by pictures in flight, and seconds by layer and worker.

The former are of traces or of what `cutset stream run --json` wrote, the latter of profiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from cutset.cluster.trace.chrome import read_trace
from cutset.cluster.trace.record import Trace
from cutset.cluster.trace.table import Latency, latencies
from cutset.errors import ConfigError, RequestError
from cutset.reading import MALFORMED, read_bytes
from cutset.video.views.figure import BLUE, COLOURS, ORANGE, layers_below, wide_enough

__all__ = ["Run", "costs", "draw_costs", "draw_latency", "latency", "most_at_once", "of_trace", "read_run"]

NOTE = "in flight"  # what a trace says of itself
COMMAND = "cutset stream run"
MOST_BYTES = 256 << 20  # of a file
Seconds = Annotated[float, msgspec.Meta(ge=0)]


@dataclass(frozen=True)
class Run:
    """`latencies`: seconds from the last sending to the result.

    `in_flight`: pictures that were allowed at once; 0 if not known.
    """

    in_flight: int
    latencies: tuple[float, ...]
    throughput: float  # pictures a second


class _Picture(msgspec.Struct):
    latency_s: Seconds  # from capture; of older documents, from the last sending
    transit_s: Seconds | None = None
    dropped: str = ""


class _Row(msgspec.Struct):
    metric: str
    value: float


class _Document(msgspec.Struct):
    command: str
    pictures: list[_Picture]
    rows: list[_Row]
    in_flight: Annotated[int, msgspec.Meta(ge=0)] = 0


def read_run(path: Path) -> Run:
    """The run of a trace or a document. Raises ConfigError for another file, RequestError for one without a result."""
    data = read_bytes(path, MOST_BYTES, "run")
    try:
        document = msgspec.json.decode(data, type=_Document)
    except MALFORMED:
        return of_trace(read_trace(data), str(path))
    if document.command != COMMAND:
        raise ConfigError(f"{path} is of `{document.command[:40]}`, not of `{COMMAND}`")
    done = tuple(
        picture.latency_s if picture.transit_s is None else picture.transit_s
        for picture in document.pictures
        if not picture.dropped
    )
    if not done:
        raise RequestError(f"{path}: no picture of this run has a result")
    speed = next((row.value for row in document.rows if row.metric == "throughput"), 0.0)
    return Run(document.in_flight, done, speed)


def of_trace(trace: Trace, name: str) -> Run:
    """Raises RequestError for a trace without a result."""
    done = [picture for picture in latencies(trace.timeline) if picture.delivered and picture.segments]
    if not done:
        raise RequestError(f"{name}: no picture of this trace has a result")
    wall = max(p.segments[-1].end for p in done) - min(p.segments[0].start for p in done)
    said = trace.notes.get(NOTE, "")
    allowed = int(said) if said.isdecimal() and len(said) < 10 else most_at_once(done)
    return Run(allowed, tuple(picture.in_flight for picture in done), len(done) / wall if wall else 0.0)


def most_at_once(pictures: Sequence[Latency]) -> int:
    """The most pictures that were on their way at once."""
    ends = [(p.segments[-1].end - p.in_flight, 1) for p in pictures if p.segments]
    ends += [(p.segments[-1].end, -1) for p in pictures if p.segments]
    now = most = 0
    for _, change in sorted(ends):  # at one moment, those that end before those that begin
        now += change
        most = max(most, now)
    return most


def latency(runs: Mapping[str, Run]) -> dict[str, Any]:
    """One row a run, in order of the number in flight. Seconds."""
    rows = [
        {
            "run": name,
            "in_flight": run.in_flight,
            "pictures": len(run.latencies),
            "latency": {str(p): float(np.percentile(run.latencies, p)) for p in (10, 50, 90)},
            "throughput": run.throughput,
        }
        for name, run in sorted(runs.items(), key=lambda item: item[1].in_flight)
    ]
    return {"view": "latency", "title": "Latency and throughput by pictures in flight", "rows": rows, "size": (9, 5)}


def draw_latency(figure: Any, data: Mapping[str, Any]) -> None:
    """Bars of latency, a line of throughput: draws `latency`'s data."""
    axes = figure.add_subplot()
    places = np.arange(len(data["rows"]))
    middle = np.array([row["latency"]["50"] for row in data["rows"]]) * 1e3
    low = middle - np.array([row["latency"]["10"] for row in data["rows"]]) * 1e3
    high = np.array([row["latency"]["90"] for row in data["rows"]]) * 1e3 - middle
    axes.bar(places, middle, 0.55, color=BLUE, yerr=[low, high], ecolor="grey", capsize=4)
    axes.set_ylabel("from the last sending to the result, ms: median, 10 to 90 %", color=BLUE)
    axes.set_xticks(places, [f"{row['in_flight'] or '?'}\n{row['run'][-20:]}" for row in data["rows"]])
    axes.set_xlabel("pictures in flight, and the run")
    other = axes.twinx()
    other.plot(places, [row["throughput"] for row in data["rows"]], "o-", color=ORANGE)
    other.set_ylabel("pictures a second", color=ORANGE)
    other.set_ylim(0, None)
    other.grid(visible=False)


def costs(layers: Sequence[str], workers: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """`workers`: of each the seconds of every layer. Raises RequestError where they are none or other ones."""
    for name, seconds in workers.items():
        if len(seconds) != len(layers):
            raise RequestError(f"{name} has times of {len(seconds)} layers; the network has {len(layers)}")
    if not workers:
        raise RequestError("no worker's times were given")
    return {
        "view": "costs",
        "title": "Time by layer: " + ", ".join(f"{name} {sum(s) * 1e3:,.0f} ms" for name, s in workers.items()),
        "layers": list(layers),
        "workers": {name: [float(s) for s in seconds] for name, seconds in workers.items()},
        "size": (wide_enough(len(layers)), 7.5),
    }


def draw_costs(figure: Any, data: Mapping[str, Any]) -> None:
    """Each layer's seconds above, their sums below: draws `costs`'s data."""
    top, bottom = figure.subplots(2, 1, sharex=True)
    count = len(data["workers"])
    for k, (name, seconds) in enumerate(data["workers"].items()):
        places, colour = np.arange(len(seconds)), COLOURS[k % len(COLOURS)]
        width = 0.8 / count
        top.bar(places + (k - (count - 1) / 2) * width, np.array(seconds) * 1e3, width, color=colour, label=name)
        bottom.step(places, np.cumsum(seconds) * 1e3, where="mid", color=colour, lw=1.4)
    top.set_ylabel("ms a layer")
    bottom.set_ylabel("ms up to there")
    top.legend(loc="upper left", ncols=min(count, 6), bbox_to_anchor=(0, 1.2))
    layers_below(bottom, data["layers"])
