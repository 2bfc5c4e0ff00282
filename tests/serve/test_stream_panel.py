"""The stream's panel: events of a real stream, and the page that shows them."""

from __future__ import annotations

import argparse
import struct
import threading
import zlib
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cluster.run.pictures import moving, small_network
from cutset.cli.stream_run import HERE, configure, dashboard
from cutset.errors import ConfigError
from cutset.partition.plan import Plan, StagePlan
from cutset.serve.events import Event, PlanEvent
from cutset.serve.feed import StreamFeed, changed_tiles
from cutset.serve.hub import Hub
from cutset.serve.panel import open_panel
from cutset.serve.png import png
from cutset.stream import Stream
from cutset.video.sources import ArraySource
from cutset.video.torch_model import TorchModel
from tests.serve.test_dashboard import becomes


def unpack(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A second reader of PNG, for what `png` writes."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] == zlib.crc32(kind + body)
        chunks[kind], at = body, at + 12 + size
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, colour) == (8, 2)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 3)


def test_a_png_has_the_pictures_pixels() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (7, 11, 3), dtype=np.uint8)
    assert np.array_equal(unpack(png(rgb)), rgb)


def test_tiles_say_where_a_picture_changed() -> None:
    before = np.zeros((1, 3, 20, 30), np.uint8)
    now = before.copy()
    now[0, 1, 9, 17] = 1  # tile (1, 2) of tiles of 8 × 8
    now[0, :, 16:, 24:] = 5  # all of the last one, which is 4 × 6
    grid, tiles = changed_tiles(before, now)
    assert grid == (3, 4)
    assert {i: share for i, share in enumerate(tiles) if share} == {1 * 4 + 2: 2, 11: 100}
    assert changed_tiles(None, now)[1] == [100] * 12


@pytest.mark.slow
def test_numbers_change_during_a_stream(page: Any) -> None:
    pictures = moving(400, 24, 28)
    with open_panel() as (hub, url):
        page.goto(url)
        becomes(page, "state", "live")
        feed = StreamFeed(hub)
        with Stream(small_network(), pictures, workers=2, rate=30, observe=feed.report) as stream:
            workers = list(stream.coordinator.remotes)
            feed.begin(stream.model.graph, model="skips", source="a moving patch", workers=workers)
            seen, bars = set(), page.locator("#gantt rect")
            for result in stream:
                feed.plans(stream.coordinator.plans, result.picture)
                feed.result(result)
                page.wait_for_timeout(1)
                seen.add(page.text_content("#picture-note"))
                # To the first worker, to the second, and back.
                if len(seen) > 5 and bars.count() > 10 and page.locator("#links tr").count() == 3:
                    break
            assert len(seen) > 5, "the page shows one picture for ever"
            assert page.title().startswith("skips")
            assert page.locator("#nodes tr:not(.cut)").count() == len(stream.model.graph.nodes)
            assert page.locator("#nodes tr.cut").count() == 1
            assert page.locator("#links tr").count() == 3
            assert bars.count() > 10
            assert "compute" in page.get_attribute("#gantt", "aria-label")
            camera = ArraySource(pictures, name="camera")
            camera.faults.lost, camera.faults.bad_packets = 2, 3
            feed.sources([camera])
            becomes(page, "sources", "camera: away now, lost 2×, back 0×, 0.0 s without pictures; 3 bad packets")
            assert page.evaluate("document.getElementById('image').naturalWidth") == 28
            page.set_viewport_size({"width": 360, "height": 700})
            assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_flag_opens_a_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUTSET_API_KEY", raising=False)
    parser = argparse.ArgumentParser()
    configure(parser)
    given = ["alexnet", "--source", "x.mp4"]
    assert parser.parse_args(given).dashboard is None
    assert parser.parse_args([*given, "--dashboard"]).dashboard == HERE
    with dashboard(None, print) as feed:
        assert feed is None
    said: list[str] = []
    for where in ("0", "localhost:0", "127.0.0.1:0"):
        with dashboard(where, said.append) as feed:
            assert isinstance(feed, StreamFeed)
            url = said[-1].removeprefix("dashboard at ")
            assert httpx.get(url).status_code == 200
    for where in ("", "x", "70000", "localhost:", "0.0.0.0:0"):  # the last one would let others in
        with pytest.raises(ConfigError), dashboard(where, said.append):
            pass


def test_a_plan_is_shown_at_once_and_explained_when_that_is_known() -> None:
    graph = TorchModel.of(small_network(), (1, 3, 12, 14)).graph
    shown: list[PlanEvent] = []
    explained = threading.Event()

    class Listening(Hub):
        def publish(self, event: Event) -> None:
            if isinstance(event, PlanEvent):
                shown.append(event)
                if event.rejected:
                    explained.set()

    go_on = threading.Event()

    def explain(plan: Plan) -> tuple[float, list[tuple[str, float]]]:
        assert go_on.wait(10)
        return 0.02, [("cloud", 0.05)]

    feed = StreamFeed(Listening(), explain=explain)
    feed.begin(graph, model="skips", source="none", workers=["a"])
    whole = Plan("", (StagePlan("a", tuple(range(len(graph.nodes)))),), scheduler="edge")
    feed.plans([(1, whole, "the stream begins")])
    feed.plans([(1, whole, "the stream begins")], 5)  # nothing new
    assert [(one.number, one.expected_ms, one.rejected) for one in shown] == [(1, None, [])]
    go_on.set()
    assert explained.wait(10)
    assert [(one.number, one.expected_ms, one.rejected) for one in shown[1:]] == [(1, 20.0, [("cloud", 50.0)])]
    assert [one.why for one in shown] == ["the stream begins"] * 2


def test_a_late_watcher_gets_what_went_before() -> None:
    hub = Hub()
    graph = TorchModel.of(small_network(), (1, 3, 12, 14)).graph
    StreamFeed(hub).begin(graph, model="skips", source="none", workers=["a", "b"])
    assert set(hub._last) == {"stream", "graph"}


def test_what_happens_to_sources_is_published() -> None:
    hub = Hub()
    source = ArraySource([np.zeros((3, 4, 5), np.uint8)], name="rtsp://camera/live")
    source.faults.lost, source.faults.reconnects, source.faults.away = 2, 1, 7.5
    StreamFeed(hub).sources([source])
    said = msgspec.json.decode(hub._last["sources"].removeprefix(b"data: "))
    assert said == {
        "type": "sources",
        "sources": [
            {
                "name": "rtsp://camera/live",
                "bad_packets_total": 0,
                "lost_total": 2,
                "reconnects_total": 1,
                "away_s_total": 7.5,
            }
        ],
    }
