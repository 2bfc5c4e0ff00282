"""Clocks with an offset, drift and jittery heartbeats come within half a round trip of the truth."""

from __future__ import annotations

import random

import pytest

from cutset.cluster.trace.align import MOST_SAMPLES, Clock
from cutset.cluster.trace.record import Recorder
from cutset.cluster.trace.spans import Span


def heartbeats(clock: Clock, offset: float, drift: float, seconds: float, count: int = 100, seed: int = 0) -> None:
    """Round trips of 2 ms and more, of which some wait long on one side only."""
    rng = random.Random(seed)
    for k in range(count):
        sent = 50 + seconds * k / count
        there = 0.001 + (rng.random() * 0.2 if rng.random() < 0.3 else 0)
        back = 0.001 + (rng.random() * 0.2 if rng.random() < 0.3 else 0)
        clock.observe(sent, theirs(sent + there, offset, drift), sent + there + back)


def theirs(t: float, offset: float, drift: float) -> float:
    return t + offset + drift * t


@pytest.mark.parametrize("drift", [0.0, 40e-6, -80e-6])
@pytest.mark.parametrize("offset", [-9000.0, 0.5, 123456.0])
def test_offset_and_drift_are_found(offset: float, drift: float) -> None:
    clock = Clock()
    heartbeats(clock, offset, drift, 600)
    assert 0.0009 < clock.uncertainty < 0.0012
    for t in (50, 200, 640):
        assert clock.ours(theirs(t, offset, drift)) == pytest.approx(t, abs=clock.uncertainty)


def test_a_short_run_fits_no_drift_to_noise() -> None:
    clock = Clock()
    heartbeats(clock, 777.0, 0.0, 2, count=5)
    assert clock.ours(777.0 + 1000) == pytest.approx(1000, abs=0.02)


def test_one_machine_has_one_clock() -> None:
    clock = Clock()
    assert clock.ours(12.25) == 12.25
    heartbeats(clock, 0.0, 0.0, 5)
    assert clock.ours(12.25) == 12.25


def test_long_runs_are_held_in_little_room_and_nonsense_is_left_out() -> None:
    clock = Clock()
    heartbeats(clock, 3000.0, 20e-6, 5000, count=5000)
    clock.observe(10.0, 1e300, 10.1)
    clock.observe(10.0, float("nan"), 10.1)
    clock.observe(10.0, 12.0, 9.0)
    assert len(clock._samples) <= MOST_SAMPLES
    assert clock.ours(theirs(2500, 3000.0, 20e-6)) == pytest.approx(2500, abs=0.0015)


def test_the_recorder_puts_parties_on_one_clock_and_says_how_well() -> None:
    recorder = Recorder("run", ["coordinator", "edge"])
    heartbeats(recorder.clock("edge"), 5000.0, 0.0, 20)
    recorder.add("edge", [Span("compute", 0, 0, 5100.0, 5100.5)])
    recorder.add("coordinator", [Span("capture", 0, 0, 99.0, 99.5)])
    trace = recorder.trace()
    assert list(trace.timeline) == ["coordinator", "edge"]
    [span] = trace.timeline["edge"]
    assert (span.start, span.end) == (pytest.approx(100, abs=0.001), pytest.approx(100.5, abs=0.001))
    assert list(trace.notes) == ["clock of edge"]


def test_a_party_that_restarts_has_a_new_clock() -> None:
    recorder = Recorder("run")
    heartbeats(recorder.clock("edge"), 5000.0, 0.0, 20)
    recorder.add("edge", [Span("compute", 0, 0, 5100.0, 5100.5)])
    recorder.restart("edge")
    heartbeats(recorder.clock("edge"), -70.0, 0.0, 20)
    recorder.add("edge", [Span("compute", 0, 1, 40.0, 41.0)])
    first, second = recorder.trace().timeline["edge"]
    assert first.start == pytest.approx(100, abs=0.003)
    assert second.start == pytest.approx(110, abs=0.003)


def test_a_long_recording_counts_what_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutset.cluster.trace.record.MOST_SPANS", 3)
    recorder = Recorder("run")
    recorder.add("a", [Span("compute", 0, k, k, k + 1) for k in range(5)])
    trace = recorder.trace()
    assert len(trace.timeline["a"]) == 3
    assert trace.notes["left out"].startswith("2 spans")
