"""How detections are matched with those of the dense network."""

from __future__ import annotations

import numpy as np
import pytest

from cutset.video.delta.agreement import Agreement, matched

BOX = [10.0, 10.0, 30.0, 30.0, 0.8, 2.0]


def boxes(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 6)


def test_one_to_one_by_class_overlap_and_score() -> None:
    truth = boxes(BOX)
    assert matched(truth, truth) == 1
    assert matched(boxes(BOX, BOX), truth) == 1, "a box is matched once"
    assert matched(boxes([*BOX[:5], 3.0]), truth) == 0, "of another class"
    assert matched(boxes([*BOX[:4], 0.84, 2.0]), truth) == 1
    assert matched(boxes([*BOX[:4], 0.86, 2.0]), truth) == 0, "of another score"
    half = [10.0, 10.0, 30.0, 20.0, 0.8, 2.0]
    assert matched(boxes(half), truth) == 1, "half of it: an overlap of exactly 0.5"
    assert matched(boxes([10.0, 10.0, 30.0, 19.9, 0.8, 2.0]), truth) == 0
    assert matched(boxes(), truth) == matched(truth, boxes()) == matched(boxes(), boxes()) == 0
    assert matched(boxes([5.0, 5.0, 5.0, 5.0, 0.8, 2.0]), boxes([5.0, 5.0, 5.0, 5.0, 0.8, 2.0])) == 0, "no area"


def test_the_best_overlap_is_taken_first() -> None:
    moved = [12.0, 10.0, 32.0, 30.0, 0.8, 2.0]
    assert matched(boxes(moved, BOX), boxes(BOX, [14.0, 10.0, 34.0, 30.0, 0.8, 2.0])) == 2


def test_pooled_over_pictures_and_empty_ones_apart() -> None:
    agreement = Agreement()
    agreement.add(boxes(), boxes())
    assert agreement.f1 == 1.0
    agreement.add(boxes(BOX), boxes(BOX))
    agreement.add(boxes(BOX), boxes())
    assert (agreement.pictures, agreement.empty) == (3, 1)
    assert agreement.f1 == pytest.approx(2 / 3)
