"""Boxes: overlaps and suppression beside slow twins, and the way back into the source's picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cutset.video.detection import Detections, suppress
from cutset.video.detection.boxes import corners, overlaps
from cutset.video.sources.placement import Placement


def slow_overlap(a: Any, b: Any) -> float:
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [max(0.0, c[2] - c[0]) * max(0.0, c[3] - c[1]) for c in (a, b)]
    either = sum(areas) - wide * high
    return wide * high / either if either > 0 else 0.0


def slow_suppress(boxes: Any, scores: Any, classes: Any, limit: float, most: int) -> list[int]:
    order = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    kept: list[int] = []
    for i in order:
        if len(kept) < most and all(
            classes[i] != classes[k] or slow_overlap(boxes[i], boxes[k]) <= limit for k in kept
        ):
            kept.append(i)
    return kept


def some_boxes(rng: np.random.Generator, count: int) -> Any:
    low = rng.integers(0, 40, (count, 2)).astype(np.float64)
    return np.concatenate([low, low + rng.integers(-1, 25, (count, 2))], axis=1)


@pytest.mark.parametrize("seed", range(12))
def test_suppression_and_overlaps_are_those_of_the_slow_twins(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = some_boxes(rng, 60)
    scores = rng.integers(0, 12, 60) / 12  # many are equal
    classes = rng.integers(0, 3, 60)
    limit, most = [(0.45, 300), (0.0, 300), (1.0, 300), (0.3, 7)][seed % 4]
    found = suppress(boxes, scores, classes, limit, most).tolist()
    assert found == slow_suppress(boxes, scores, classes, limit, most)
    assert 0 < len(found) <= most
    shared = overlaps(boxes[:5], boxes)
    assert np.allclose(shared, [[slow_overlap(a, b) for b in boxes] for a in boxes[:5]])
    assert shared.max() > 0.9


def test_nothing_is_suppressed_across_classes_and_of_nothing_nothing_is_left() -> None:
    box = np.array([[0, 0, 9, 9], [0, 0, 9, 9]])
    assert suppress(box, np.array([0.5, 0.9]), np.array([0, 1]), 0.5, 9).tolist() == [1, 0]
    assert suppress(box, np.array([0.5, 0.9]), np.array([0, 0]), 0.5, 9).tolist() == [1]
    assert suppress(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), 0.5, 9).size == 0


def test_a_middle_and_sides_become_corners() -> None:
    assert corners(np.array([[10, 20, 4, 6]])).tolist() == [[8, 17, 12, 23]]


@pytest.mark.parametrize(
    ("native", "size"),
    [((1080, 1920), (640, 640)), ((480, 854), (320, 320)), ((100, 37), (64, 96)), ((2, 500), (8, 8))],
)
def test_a_letterbox_is_undone(native: tuple[int, int], size: tuple[int, int]) -> None:
    placement = Placement.letterbox(native, size)
    rows, columns = placement.inner
    top, left = placement.corner
    assert rows == size[0] or columns == size[1], "it is as large as it can be"
    assert 0 <= top <= size[0] - rows
    assert 0 <= left <= size[1] - columns
    assert abs((size[0] - rows) - 2 * top) <= 1, "it is in the middle"
    scale = min(size[0] / native[0], size[1] / native[1])
    assert max(abs(rows - native[0] * scale), abs(columns - native[1] * scale)) <= 1
    ends = np.array([[left, top], [left + columns, top + rows]])
    assert np.allclose(placement.to_native(ends), [[0, 0], [native[1], native[0]]])
    points = np.random.default_rng(1).random((50, 2)) * (native[1], native[0])
    assert np.allclose(placement.to_native(placement.to_picture(points)), points)


def test_boxes_outside_of_the_picture_are_cut_off_or_left_out() -> None:
    placement = Placement.letterbox((100, 200), (200, 200))  # 50 rows of grey above and below
    boxes = np.array([[10, 40, 60, 90], [0, 0, 200, 30], [150, 140, 220, 160]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.8, 0.7], np.float32), np.zeros(3, np.int64), ("cat",))
    back = found.in_source(placement)
    assert back.boxes.tolist() == [[10, 0, 60, 40], [150, 90, 200, 100]]
    assert back.scores.tolist() == pytest.approx([0.9, 0.7])
    assert np.allclose(back.in_picture(placement).boxes, [[10, 50, 60, 90], [150, 140, 200, 150]])
    assert (back.label(0), Detections(boxes, found.scores, found.classes + 7).label(0)) == ("cat", "class 7")
