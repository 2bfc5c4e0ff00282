"""The latencies of a run, from its trace or from the document that `cutset stream run --json` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from cutset.cluster.trace.chrome import read_trace
from cutset.cluster.trace.record import Trace
from cutset.cluster.trace.table import Latency, latencies
from cutset.errors import ConfigError, RequestError
from cutset.reading import MALFORMED, read_bytes

__all__ = ["Run", "most_at_once", "of_trace", "read_run"]

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
