"""From when a latency counts, and how it is told."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from cutset.cluster.coordinator.feeding import Feeder
from cutset.cluster.coordinator.items import Item
from cutset.partition.node import Value
from cutset.video.forms import PictureInputs
from cutset.video.result import Result
from cutset.video.sources.arrays import ArraySource
from cutset.video.sources.live import LiveSource
from cutset.video.sources.picture import Picture
from cutset.video.summary import Summary

PICTURE = Value("x", (1, 3, 4, 4), "uint8")
PIXELS = np.zeros((1, 3, 4, 4), np.uint8)


def result(picture: int, captured: float, sent: float, done: float, dropped: str = "") -> Result:
    outputs = {} if dropped else {"y": PIXELS}
    return Result(0, picture, 0.0, outputs, dropped, 1, captured, sent, done, 2, PIXELS)


def test_a_latency_counts_from_capture_however_often_a_picture_was_sent() -> None:
    again = result(0, captured=10.0, sent=12.92, done=13.1)
    assert again.latency == again.age == pytest.approx(3.1)
    assert again.transit == pytest.approx(0.18)


def test_the_summary_has_the_median_the_95_percent_and_the_largest() -> None:
    summary = Summary()
    for k in range(101):
        summary.result(result(k, captured=0.0, sent=k * 0.9, done=float(k)))
    summary.result(result(101, 0.0, 0.0, 500.0, dropped="late"))
    lines = summary.lines()
    assert lines[1].startswith(
        "latency from capture to result: 50000.0 ms (median), 95000.0 ms (95 %), 100000.0 ms (largest)"
    )
    assert lines[2].startswith(
        "of which links and layers, from the last sending on: 5000.0 ms (median), 9500.0 ms (95 %)"
    )
    assert Summary().lines() == ["0 pictures, 0 dropped, 0 sent again"]


def taken(feeder: Feeder, seconds: float = 20.0) -> Item:
    until = time.monotonic() + seconds
    while (item := feeder.take()) is None:
        assert time.monotonic() < until
        time.sleep(0.001)
    return item


def test_a_picture_that_was_due_while_the_stream_stood_still_is_as_old_as_that() -> None:
    feeder = Feeder(0, [PIXELS] * 12, PICTURE, PictureInputs(), lambda: None, rate=50)
    begun = taken(feeder).captured
    time.sleep(0.3)
    rest = [taken(feeder) for _ in range(11)]
    assert [item.captured - begun for item in rest] == pytest.approx([k / 50 for k in range(1, 12)])
    feeder.close()


def test_what_is_read_ahead_of_the_first_picture_counts_from_that() -> None:
    for rate in (None, 100):
        feeder = Feeder(0, [PIXELS] * 4, PICTURE, PictureInputs(), lambda: None, rate=rate)
        time.sleep(0.2)
        before = time.monotonic()
        items = [taken(feeder) for _ in range(4)]
        assert all(before <= item.captured <= time.monotonic() for item in items)
        feeder.close()


def test_a_camera_says_itself_when_it_saw_a_picture() -> None:
    long_ago = time.monotonic() - 100
    pictures = [replace(Picture(k, PIXELS, 0.04 * k), captured=long_ago + k) for k in range(2)]
    feeder = Feeder(0, pictures, PICTURE, PictureInputs(), lambda: None, rate=50)
    assert [taken(feeder).captured - long_ago for _ in range(2)] == pytest.approx([0.0, 1.0])
    feeder.close()


def test_live_sources_say_it() -> None:
    read = threading.Event()

    def camera() -> Any:
        yield PIXELS
        yield PIXELS
        read.set()

    begun = time.monotonic()
    source = LiveSource(ArraySource(camera()))
    assert read.wait(20)
    came = time.monotonic()
    time.sleep(0.1)
    found = list(source)
    assert len(found) == 2
    assert all(picture.captured is not None and begun <= picture.captured <= came + 0.05 for picture in found)
    source.close()
