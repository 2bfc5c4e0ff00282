"""Trace files: what Chrome's format demands, and the same spans back."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cluster.trace.pipeline import pipeline
from cutset.cluster.trace.chrome import read_trace, write_trace
from cutset.cluster.trace.record import Trace
from cutset.cluster.trace.spans import Span
from cutset.errors import ConfigError


def made() -> Trace:
    return Trace("a run", pipeline(), {"plan": "edge 0-4, cloud 5-9"})


def test_the_file_is_what_the_format_says() -> None:
    document = json.loads(write_trace(made()))
    events = document["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert list(names.values()) == ["coordinator", "edge", "cloud"]
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    complete = [e for e in events if e["ph"] == "X"]
    assert len(complete) == sum(map(len, pipeline().values()))
    assert {e["ph"] for e in events} == {"X", "M"}
    for e in complete:
        assert isinstance(e["pid"], int)
        assert threads[e["pid"], e["tid"]].split()[0] == e["cat"]
        assert e["ts"] >= 0
        assert e["dur"] >= 0
    first = min(complete, key=lambda e: e["ts"])
    assert (first["ts"], first["dur"], first["name"]) == (0, pytest.approx(1000), "capture 0")
    sent = next(e for e in complete if e["cat"] == "send" and names[e["pid"]] == "edge")
    assert sent["args"]["bytes"] == 20_000
    assert sent["dur"] == pytest.approx(20_000)


def test_events_of_a_thread_dont_overlap() -> None:
    spans = [Span("send", 0, k, 0.1 * k, 0.1 * k + 0.25) for k in range(20)]
    events = [e for e in json.loads(write_trace(Trace("", {"a": spans})))["traceEvents"] if e["ph"] == "X"]
    for tid in {e["tid"] for e in events}:
        own = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e["tid"] == tid)
        assert all(a[1] <= b[0] + 1e-6 for a, b in pairwise(own))


def test_reading_gives_the_spans_back(tmp_path: Path) -> None:
    trace = made()
    (tmp_path / "run.json").write_bytes(write_trace(trace))
    back = read_trace(tmp_path / "run.json")
    assert (back.title, back.notes) == (trace.title, trace.notes)
    begin = 100.0
    for party, spans in trace.timeline.items():
        found = sorted(back.timeline[party], key=lambda s: (s.number, s.kind, s.start))
        wanted = sorted(spans, key=lambda s: (s.number, s.kind, s.start))
        for one, two in zip(found, wanted, strict=True):
            assert (one.kind, one.source, one.number, one.nbytes) == (two.kind, two.source, two.number, two.nbytes)
            assert one.start == pytest.approx(two.start - begin, abs=2e-9)
            assert one.end == pytest.approx(two.end - begin, abs=2e-9)


def damaged(change: Any) -> bytes:
    document = json.loads(write_trace(made()))
    change(document)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("otherData"),
        lambda d: d["otherData"].update(format="cutset-trace-9"),
        lambda d: d["traceEvents"][-1].update(dur=-1),
        lambda d: d["traceEvents"][-1].update(ts=1e300),
        lambda d: d["traceEvents"][-1].update(ts="soon"),
        lambda d: d["traceEvents"][-1].update(pid=77),
        lambda d: d["traceEvents"][-1].update(cat="dance"),
        lambda d: d["traceEvents"][-1].update(ph="B"),
        lambda d: d["traceEvents"][-1]["args"].update(picture="x"),
        lambda d: [e["args"].update(name="same") for e in d["traceEvents"] if e["name"] == "process_name"],
    ],
)
def test_damaged_files_are_refused(change: Any) -> None:
    with pytest.raises(ConfigError, match="trace"):
        read_trace(damaged(change))


def test_what_is_no_trace_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for data in (b"", b"[]", b"{", b'{"traceEvents": []}', b"\xff\xfe"):
        with pytest.raises(ConfigError, match="not a trace"):
            read_trace(data)
    with pytest.raises(ConfigError, match="can't read"):
        read_trace(tmp_path / "none.json")
    (tmp_path / "large.json").write_bytes(write_trace(made()))
    monkeypatch.setattr("cutset.cluster.trace.chrome.MOST_BYTES", 100)
    with pytest.raises(ConfigError, match="too large"):
        read_trace(tmp_path / "large.json")
