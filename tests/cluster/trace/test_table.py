"""Where the time went: parts that sum to the latency, queues that say what they wait behind, idle time."""

from __future__ import annotations

import random

import pytest

from cluster.trace.pipeline import pipeline
from cutset.cluster.trace.path import by_item, path
from cutset.cluster.trace.spans import Span
from cutset.cluster.trace.table import latencies, mean_split, window, work


def test_a_picture_alone_spends_what_was_put_in() -> None:
    [latency] = latencies(pipeline(1))
    split = latency.split()
    assert split == {
        ("coordinator", "capture"): pytest.approx(0.001),
        ("coordinator", "send"): pytest.approx(0.002),
        ("edge", "compute"): pytest.approx(0.010),
        ("edge", "encode"): pytest.approx(0.001),
        ("cloud", "receive"): pytest.approx(0.020),
        ("cloud", "decode"): pytest.approx(0.001),
        ("cloud", "compute"): pytest.approx(0.005),
        ("coordinator", "deliver"): pytest.approx(0.001),
    }
    assert sum(split.values()) == pytest.approx(latency.seconds)
    assert latency.delivered
    assert latency.in_flight == pytest.approx(0.040)


def test_later_pictures_queue_behind_the_one_before() -> None:
    timeline = pipeline(4)
    segments = path(by_item(timeline)[0, 3], timeline)
    queued = [s for s in segments if s.part == "queue"]
    # The link takes 20 ms a picture and pictures come every 10 ms, so that each waits 10 ms more than the one before.
    assert sum(s.seconds for s in queued) == pytest.approx(0.030)
    assert queued[0].behind == (1, 2)
    assert queued[0].party in ("edge", "cloud")


def test_parts_sum_to_the_latency_whatever_the_spans() -> None:
    rng = random.Random(1)
    kinds = ("capture", "wait", "receive", "decode", "compute", "encode", "send", "deliver")
    for _ in range(50):
        timeline: dict[str, list[Span]] = {"a": [], "b": [], "c": []}
        for _ in range(rng.randrange(1, 25)):
            start = rng.random() * 10
            span = Span(rng.choice(kinds), 0, rng.randrange(3), start, start + rng.random() * rng.choice((0, 0.1, 4)))
            timeline[rng.choice("abc")].append(span)
        for latency in latencies(timeline):
            own = [s for spans in timeline.values() for s in spans if s.number == latency.number]
            assert latency.seconds == pytest.approx(max(s.end for s in own) - min(s.start for s in own))
            assert sum(latency.split().values()) == pytest.approx(latency.seconds)
            for one, two in zip(latency.segments, latency.segments[1:], strict=False):
                assert one.end == two.start
                assert (one.party, one.part) != (two.party, two.part)


def test_the_way_over_a_link_is_transfer() -> None:
    timeline = {"a": [Span("send", 0, 0, 0.0, 1.0)], "b": [Span("decode", 0, 0, 3.0, 4.0)]}
    [latency] = latencies(timeline)
    assert latency.split() == {("a", "send"): 1.0, ("b", "transfer"): 2.0, ("b", "decode"): 1.0}
    assert not latency.delivered


def test_a_result_is_delivered_or_decoded_at_home() -> None:
    spans = [Span("capture", 0, 0, 0.0, 0.0), Span("send", 0, 0, 0.0, 1.0)]
    there = [Span("decode", 0, 0, 1.0, 2.0)]
    [without] = latencies({"home": spans, "edge": there})
    [decoded] = latencies({"home": [*spans, Span("decode", 0, 0, 3.0, 4.0)], "edge": there})
    assert (without.delivered, decoded.delivered) == (False, True)


def test_the_mean_split_sums_to_the_mean_latency() -> None:
    found = latencies(pipeline(5))
    assert sum(mean_split(found).values()) == pytest.approx(sum(p.seconds for p in found) / 5)


def test_work_counts_shares_of_a_window_and_idle_time() -> None:
    timeline = {
        "a": [
            Span("compute", 0, 0, 0.0, 2.0),
            Span("send", 0, 0, 1.0, 3.0, 10),
            Span("compute", 0, 1, 5.0, 6.0),
            Span("wait", 0, 1, 3.0, 5.0),
        ],
        "b": [Span("receive", 0, 0, 9.0, 12.0, 7)],
    }
    assert window(timeline) == (0.0, 12.0)
    one, two = work(timeline, 0.0, 10.0)
    assert (one.seconds["compute"], one.seconds["send"], one.seconds["wait"]) == (3.0, 2.0, 2.0)
    assert one.idle == pytest.approx(10 - 4)
    assert (one.sent, one.received) == (10, 0)
    assert (two.seconds["receive"], two.idle, two.received) == (1.0, 9.0, 7)


def test_nothing_is_no_picture() -> None:
    assert latencies({"a": []}) == ()
    assert window({"a": []}) == (0.0, 0.0)
