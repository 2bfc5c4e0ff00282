"""Objects are followed, and what they do in zones becomes events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy")

from cutset.errors import ConfigError
from cutset.video.detection import Detections
from cutset.video.zones.tracker import Tracker
from cutset.video.zones.watch_zones import ZoneWatch
from cutset.video.zones.zone import Zone, read_zones

SIZE = (100, 200)
NAMES = ("person", "car")


def seen(*things: tuple[float, float, int]) -> Detections:
    """Boxes of 20 x 20 whose feet are at (x, y), of a class."""
    boxes = np.array([[x - 10, y - 20, x + 10, y] for x, y, _ in things], np.float32).reshape(-1, 4)
    return Detections(boxes, np.full(len(things), 0.8, np.float32), np.array([c for *_, c in things], np.int64), NAMES)


def test_objects_keep_their_numbers_while_they_move_and_cross() -> None:
    tracker = Tracker()
    for i in range(30):
        here, gone = tracker.update(seen((20 + 5 * i, 50, 0), (170 - 5 * i, 58, 0), (20 + 5 * i, 52, 1)), i / 10)
        assert not gone
        at = {one.number: float(one.box[0] + 10) for one in here}
        assert at == {1: 20 + 5 * i, 2: 170 - 5 * i, 3: 20 + 5 * i}, f"picture {i}"
    assert {one.number: one.label for one in here} == {1: "person", 2: "person", 3: "car"}


def test_who_is_hidden_for_a_while_comes_back_and_who_is_gone_does_not() -> None:
    tracker = Tracker(patience=1.0)
    tracker.update(seen((50, 50, 0)), 0.0)
    assert tracker.update(seen(), 0.5) == ([], [])
    [here], _ = tracker.update(seen((52, 50, 0)), 0.9)
    assert here.number == 1
    _, [gone] = tracker.update(seen(), 2.0)
    assert (gone.number, gone.seen) == (1, 0.9)
    [new], _ = tracker.update(seen((52, 50, 0)), 2.1)
    assert new.number == 2, "numbers are never used again"


def test_one_detection_is_one_object_however_many_are_near() -> None:
    tracker = Tracker()
    tracker.update(seen((50, 50, 0), (58, 50, 0)), 0.0)
    here, _ = tracker.update(seen((51, 50, 0), (59, 50, 0), (55, 50, 0)), 0.1)
    assert sorted(one.number for one in here) == [1, 2, 3]
    assert {one.number: float(one.box[0]) for one in here} == {1: 41, 2: 49, 3: 45}


def box(name: str = "z", **more: Any) -> Zone:
    return Zone(name, np.array([[0.25, 0], [0.5, 0], [0.5, 1], [0.25, 1]]), True, **more)


def told(watch: ZoneWatch, places: list[Any], step: float = 1.0) -> list[tuple[str, str, int, float]]:
    found = []
    for i, place in enumerate(places):
        things = seen() if place is None else seen(*((x, 50, 0) for x in place))
        found += [(e["event"], e["zone"], e["object"], e["time"]) for e in watch.update(things, SIZE, i * step)]
    return found


def test_an_object_enters_stays_and_leaves() -> None:
    watch = ZoneWatch("door", [box(stays=2.0)])
    events = told(watch, [[40], [48], [56], [64], [72], [90], [99], [104], [96]])
    assert events == [
        ("enters", "z", 1, 2.0),
        ("stays", "z", 1, 4.0),
        ("leaves", "z", 1, 7.0),
        ("enters", "z", 1, 8.0),
    ], "the zone is from 50 to 100"


def test_who_vanishes_inside_has_left_when_it_was_last_seen() -> None:
    watch = ZoneWatch("door", [box()], Tracker(patience=2.5))
    events = told(watch, [[60], [62], None, None, None, None, [62]])
    assert events == [("enters", "z", 1, 0.0), ("leaves", "z", 1, 1.0), ("enters", "z", 2, 6.0)]
    [event] = ZoneWatch("a", [box()]).update(seen((60, 50, 1)), SIZE, 3.0)
    assert event == {
        "event": "enters",
        "zone": "z",
        "camera": "a",
        "object": 1,
        "label": "car",
        "score": 0.8,
        "box": [50, 30, 70, 50],
        "time": 3.0,
    }


def test_who_trembles_on_the_border_is_not_an_event_a_picture() -> None:
    places = [[48], [51], [49], [51], [49], [51], [53], [54], [49], [55]]
    assert len(told(ZoneWatch("a", [box()]), places)) == 7
    assert told(ZoneWatch("a", [box(inertia=3)]), places) == [("enters", "z", 1, 5.0)], "the first of three"


def test_zones_are_for_their_cameras_and_classes() -> None:
    zones = [box("a", cameras=("x",)), box("b", labels=("car",)), box("c")]
    assert [e["zone"] for e in ZoneWatch("x", zones).update(seen((60, 50, 0)), SIZE, 0)] == ["a", "c"]
    assert [e["zone"] for e in ZoneWatch("y", zones).update(seen((60, 50, 1)), SIZE, 0)] == ["b", "c"]


@pytest.mark.parametrize("seed", range(5))
def test_what_is_inside_a_polygon_is_what_a_winding_angle_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.random(7)) * 2 * np.pi
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * (0.2 + rng.random((7, 1)) * 30) + 50
    zone = Zone("z", corners, False)
    for point in rng.random((200, 2)) * 100:
        away = corners - point
        turns = np.arctan2(away[:, 1], away[:, 0])
        steps = (np.roll(turns, -1) - turns + np.pi) % (2 * np.pi) - np.pi
        assert zone.holds((float(point[0]), float(point[1])), SIZE) == (abs(steps.sum()) > 1)


@pytest.mark.parametrize("foot", [(100, 100), (0, 70), (200, 70), (200, 100), (30, 40), (170, 100)])
def test_who_stands_on_the_edge_of_the_picture_is_inside(foot: tuple[float, float]) -> None:
    """A picture of 200 x 100: who comes near is cut off by its lower edge, where the zone ends, too."""
    shares = Zone("z", np.array([[0, 0.4], [1, 0.4], [1, 1], [0, 1]]), True)
    pixels = Zone("z", np.array([[0, 40], [200, 40], [200, 100], [0, 100]]), False)
    x, y = foot
    for zone in (shares, pixels):
        assert zone.holds(foot, SIZE)
        assert not zone.holds((x, 39.9), SIZE)
        watch = ZoneWatch("a", [zone])
        assert [e["event"] for e in watch.update(seen((x, y, 0)), SIZE, 0)] == ["enters"]


def test_a_border_belongs_to_one_of_two_zones() -> None:
    corners = [[0, 0], [40, 0], [40, 100], [0, 100]], [[40, 0], [200, 0], [200, 100], [40, 100]]
    left, right = (Zone("z", np.array(points), False) for points in corners)
    for y in (0, 40, 99.9, 100):
        for x in (0, 39.9, 40, 40.1, 200):
            assert left.holds((x, y), SIZE) + right.holds((x, y), SIZE) == 1, (x, y)


FILES = {
    "a.yaml": "zones:\n  door:\n    polygon: [[0.1, 0.5], [0.4, 0.5], [0.4, 1.0]]\n    stays: 2.5\n    camera: x\n",
    "a.toml": "[zones.door]\npolygon = [[0.1, 0.5], [0.4, 0.5], [0.4, 1.0]]\nstays = 2.5\ncamera = ['x']\n",
    "a.json": '{"door": {"polygon": [[0.1, 0.5], [0.4, 0.5], [0.4, 1.0]], "stays": 2.5, "cameras": ["x"]}}',
    "b.yaml": '- name: door\n  polygon: "0.1,0.5,0.4,0.5,0.4,1"\n  stays: 2.5\n  camera: x\n',
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_zones(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FILES[name])
    [zone] = read_zones(tmp_path / name, ["x", "y"])
    assert (zone.name, zone.relative, zone.stays, zone.cameras, zone.inertia) == ("door", True, 2.5, ("x",), 1)
    assert zone.in_pixels(SIZE).tolist() == [[20, 50], [80, 50], [80, 100]]


def test_pixels_and_shares(tmp_path: Path) -> None:
    file = tmp_path / "z.yaml"
    file.write_text(
        "a:\n  polygon: [[0, 0], [30, 0], [30, 20]]\nb:\n  polygon: [[0, 0], [1, 0], [1, 1]]\n  units: pixels\n"
    )
    assert [zone.in_pixels(SIZE)[1].tolist() for zone in read_zones(file, [])] == [[30, 0], [1, 0]]


def test_a_zone_for_a_class_that_is_never_found(tmp_path: Path) -> None:
    file = tmp_path / "z.yaml"
    file.write_text("a: {polygon: [[0, 0], [1, 0], [0, 1]], labels: [car, persn]}")
    assert read_zones(file, [])[0].labels == ("car", "persn")
    with pytest.raises(ConfigError, match="no class 'persn'; did you mean 'person'"):
        read_zones(file, [], NAMES)
    with pytest.raises(ConfigError, match="no class 'car'"):
        read_zones(file, [], ["person"])  # as --only leaves them
    file.write_text("a: {polygon: [[0, 0], [1, 0], [0, 1]], labels: [car, class 7]}")
    assert read_zones(file, [], NAMES)[0].labels == ("car", "class 7")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no zones"),
        ("zones: {}", "no zones"),
        ("7", "no zones"),
        ("- 1", "needs a name"),
        ("- {name: a}\n- {name: a}", "needs a name"),
        ("a: 1", "must be a table"),
        ("a: {}", "a polygon has"),
        ("a: {polygon: [[0, 0], [1, 1]]}", "a polygon has"),
        ("a: {polygon: [[0, 0], [1, 1], [0.5, 0.5]]}", "on one line"),
        ("a: {polygon: [[0, 0], [1, 1], [a, 0]]}", "a polygon has"),
        ("a: {polygon: [[0, 0], [1, 1, 1], [0, 1]]}", "a polygon has"),
        ("a: {polygon: '0,0,1,1,x,0'}", "a polygon has"),
        ("a: {polygon: [[0, 0], [9999999, 1], [0, 1]]}", "a polygon has"),
        ("a: {poligon: []}", "did you mean 'polygon'"),
        ("a: {polygon: [[0, 0], [1, 0], [0, 1]], units: feet}", "units"),
        ("a: {polygon: [[0, 0], [9, 0], [0, 1]], units: relative}", "from 0 to 1"),
        ("a: {polygon: [[0, 0], [1, 0], [0, 1]], camera: fornt}", "did you mean 'front'"),
        ("a: {polygon: [[0, 0], [1, 0], [0, 1]], stays: -1}", "stays"),
        ("a: {polygon: [[0, 0], [1, 0], [0, 1]], inertia: 1.5}", "inertia"),
        ("a: {polygon: [[0, 0], [1, 0], [0, 1]], labels: [1]}", "labels"),
        ("a/b: {polygon: [[0, 0], [1, 0], [0, 1]]}", "a name is"),
        ("a: &x {polygon: [[0, 0], [1, 0], [0, 1]]}\nb: *x", "anchors"),
        ("a: !!python/name:os.system x", "tags"),
    ],
)
def test_files_that_are_refused(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "z.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        read_zones(file, ["front"])
    assert len(str(caught.value)) < 500
