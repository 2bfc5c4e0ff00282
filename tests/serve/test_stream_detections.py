"""What a detector finds, in the dashboard and for Prometheus."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

pytest.importorskip("prometheus_client")

from cutset.serve.events import PictureEvent, StreamEvent
from cutset.serve.feed import StreamFeed
from cutset.serve.hub import Hub
from cutset.serve.panel import open_panel
from cutset.serve.stream_metrics import StreamMetrics
from cutset.video.detection import Detections
from cutset.video.result import PictureNote, Result
from cutset.video.sources import ArraySource
from cutset.video.sources.placement import Placement
from tests.serve.test_dashboard import becomes

SIZE = (60, 80)


def result(number: int, *, source: int = 0, index: int | None = None, dropped: str = "", age: float = 0.1) -> Result:
    """A picture's result; it was letterboxed from 30 x 80."""
    note = PictureNote(index, Placement.letterbox((30, 80), SIZE))
    pixels = np.full((1, 3, *SIZE), 90, np.uint8)
    return Result(source, number, number / 25, {}, dropped, 1, 5.0, 5.0, 5.0 + age, 1, pixels, note)


def found(*things: tuple[int, float, tuple[int, int, int, int]]) -> Detections:
    boxes = np.array([box for *_, box in things], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score, _ in things], np.float32)
    return Detections(boxes, scores, np.array([number for number, *_ in things], np.int64), ("person", "<b>dog</b>"))


def test_what_prometheus_reads_of_each_camera() -> None:
    metrics = StreamMetrics()
    sources = [ArraySource([np.zeros((3, 4, 5), np.uint8)]) for _ in range(2)]
    sources[1].faults.lost = 3
    metrics.begin(["front", "back"], sources)
    metrics.result(result(0, index=0), found((0, 0.9, (0, 0, 9, 9)), (0, 0.8, (20, 0, 29, 9)), (1, 0.5, (1, 1, 5, 5))))
    metrics.result(result(1, index=5, age=0.7), found())
    metrics.result(result(2, index=6, dropped="not done 0.2 s after capture"), None)
    metrics.result(result(0, source=1, dropped="no worker is left"), None)
    with open_panel(metrics=metrics.text) as (_, url):
        answer = httpx.get(f"{url}/metrics")
        assert httpx.get(f"{url}/health").json() == {"status": "ok"}
    assert answer.headers["content-type"].startswith("text/plain")
    lines = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if line.startswith("cutset_camera"))
    assert lines['cutset_camera_pictures_total{camera="front"}'] == "2.0"
    assert lines['cutset_camera_pictures_total{camera="back"}'] == "0.0"
    assert lines['cutset_camera_detections_total{camera="front",label="person"}'] == "2.0"
    assert lines['cutset_camera_dropped_total{camera="front",why="left out"}'] == "4.0"
    assert lines['cutset_camera_dropped_total{camera="front",why="late"}'] == "1.0"
    assert lines['cutset_camera_dropped_total{camera="back",why="lost"}'] == "1.0"
    assert lines['cutset_camera_latency_seconds_bucket{camera="front",le="0.2"}'] == "1.0"
    assert lines['cutset_camera_latency_seconds_count{camera="front"}'] == "2.0"
    assert lines['cutset_camera_lost_total{camera="back"}'] == "3.0"


class Watched(Hub):
    """Somebody looks at it."""

    watched = True


def test_an_event_has_boxes_in_pixels_of_the_picture_that_is_shown() -> None:
    hub = Watched()
    StreamFeed(hub).result(result(0), found((0, 0.9, (8, 0, 16, 30))))
    event = msgspec.json.decode(hub._last["picture"].removeprefix(b"data: "), type=PictureEvent)
    assert event.boxes is not None
    [one] = event.boxes
    assert (one.label, one.box) == ("person", (8.0, 15.0, 16.0, 45.0)), "15 rows of grey above"
    assert event.result == []


def test_boxes_are_drawn_over_the_picture(page: Any) -> None:
    with open_panel() as (hub, url):
        page.goto(url)
        becomes(page, "state", "live")
        hub.publish(StreamEvent("spots", "front", SIZE, None, "delta", ["coordinator", "a"]))
        feed = StreamFeed(hub)
        things = found((0, 0.9, (8, 0, 16, 30)), (1, 0.6, (40, 10, 70, 28)), (0, 0.5, (20, 2, 30, 25)))
        while not hub.watched:
            page.wait_for_timeout(10)
        feed.result(result(0), things)
        becomes(page, "result", "2 person, 1 <b>dog</b>")
        assert page.locator("#boxes rect.frame-of").count() == 3
        first = page.locator("#boxes rect.frame-of").last
        assert [first.get_attribute(name) for name in ("x", "y", "width", "height")] == ["8", "15", "8", "30"]
        assert page.locator("#boxes text").last.text_content() == "person 90 %"
        assert "2 person" in page.get_attribute("#image", "alt")
        page.uncheck("#show-boxes")
        assert page.locator("#boxes rect").count() == 0
