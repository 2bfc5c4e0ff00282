"""Traces as files that chrome://tracing and ui.perfetto.dev open: a process a party, a thread a lane.

The format is Chrome's Trace Event Format, complete events (`X`) and names as metadata (`M`), times in microseconds.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Literal

import msgspec

from cutset.cluster.trace.lanes import lanes
from cutset.cluster.trace.record import MOST_SPANS, Trace
from cutset.cluster.trace.spans import Kind, Span
from cutset.errors import ConfigError
from cutset.reading import read_bytes, read_struct

__all__ = ["read_trace", "write_trace"]

FORMAT = "cutset-trace-1"
MOST_BYTES = 400 << 20  # of a file
MOST_PARTIES = 1000
LONGEST = 1e13  # microseconds, about four months


class _Args(msgspec.Struct, omit_defaults=True):
    name: str = ""  # of a process or thread, or of an edge or node
    sort_index: int = 0
    number: int = msgspec.field(name="picture", default=0)  # of the item; files have always called it so
    source: int = 0
    bytes: int = 0


class _Event(msgspec.Struct):
    ph: Literal["X", "M"]
    name: str
    pid: int
    tid: int
    args: _Args
    cat: str = ""
    ts: float = 0.0
    dur: float = 0.0


class _Other(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    title: str
    notes: dict[str, str]


class _File(msgspec.Struct):
    traceEvents: list[_Event]  # the format's own spelling
    otherData: _Other
    displayTimeUnit: str = "ms"


def write_trace(trace: Trace) -> bytes:
    """A trace as JSON. Times begin at 0 with the earliest span, to a nanosecond."""
    begin = min((span.start for spans in trace.timeline.values() for span in spans), default=0.0)
    events = []
    for pid, (party, spans) in enumerate(trace.timeline.items(), 1):
        events.append(_Event("M", "process_name", pid, 0, _Args(party)))
        events.append(_Event("M", "process_sort_index", pid, 0, _Args(sort_index=pid)))
        for tid, lane in enumerate(lanes(spans), 1):
            events.append(_Event("M", "thread_name", pid, tid, _Args(lane.name)))
            events.append(_Event("M", "thread_sort_index", pid, tid, _Args(sort_index=tid)))
            events += [_event(span, pid, tid, begin) for span in lane.spans]
    file = _File(events, _Other(FORMAT, trace.title, dict(trace.notes)))
    return re.sub(rb'\},(?=\{"ph")', b"},\n", msgspec.json.encode(file))


def _event(span: Span, pid: int, tid: int, begin: float) -> _Event:
    args = _Args(span.name, number=span.number, source=span.source, bytes=span.nbytes)
    start = round((span.start - begin) * 1e6, 3)
    # From the rounded ends, so that spans that touch still do.
    seconds = round((span.end - begin) * 1e6, 3) - start
    return _Event("X", f"{span.kind} {span.number}", pid, tid, args, span.kind, start, max(round(seconds, 3), 0.0))


def read_trace(source: Path | bytes) -> Trace:
    """The trace of a file or of `write_trace`'s bytes, times from 0. Raises ConfigError for anything else."""
    data = read_bytes(source, MOST_BYTES, "trace") if isinstance(source, Path) else source
    file = read_struct(data, _File, "this is not a trace of `cutset stream run`")
    if file.otherData.format != FORMAT:
        raise ConfigError(f"this is not a trace of `cutset stream run`: its format is not {FORMAT}")
    if len(file.traceEvents) > 3 * MOST_SPANS:
        raise ConfigError(f"the trace has {len(file.traceEvents):,} events; write one of fewer items")
    parties = {event.pid: event.args.name for event in file.traceEvents if event.name == "process_name"}
    if len(set(parties.values())) != len(parties) or len(parties) > MOST_PARTIES:
        raise ConfigError(
            "this is not a trace of `cutset stream run`: two parties have one name, or there are too many"
        )
    timeline: dict[str, list[Span]] = {name: [] for name in parties.values()}
    for event in file.traceEvents:
        if event.ph == "X":
            if event.pid not in parties:
                raise ConfigError("this is not a trace of `cutset stream run`: an event belongs to no party")
            timeline[parties[event.pid]].append(_span(event))
    return Trace(file.otherData.title, {party: tuple(spans) for party, spans in timeline.items()}, file.otherData.notes)


def _span(event: _Event) -> Span:
    if not (math.isfinite(event.ts) and 0 <= event.ts <= LONGEST and 0 <= event.dur <= LONGEST):
        raise ConfigError(f"the trace has an event at {event.ts} of {event.dur} µs")
    try:
        kind = msgspec.convert(event.cat, type=Kind)
    except msgspec.ValidationError:
        raise ConfigError(f"the trace has an event of the unknown kind {event.cat[:40]!r}") from None
    args, start = event.args, event.ts / 1e6
    return Span(kind, args.source, args.number, start, (event.ts + event.dur) / 1e6, args.bytes, args.name)
