"""How detections are matched with those of the dense network."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from cutset.codec import Budget
from cutset.errors import ConfigError
from cutset.stream import Stream
from cutset.video.accuracy import Accuracy
from cutset.video.delta.box_agreement import BoxAgreement, Disagreement, matched

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
    agreement = BoxAgreement()
    agreement.add(boxes(), boxes())
    assert agreement.f1 == 1.0
    agreement.add(boxes(BOX), boxes(BOX))
    agreement.add(boxes(BOX), boxes())
    assert (agreement.pictures, agreement.empty) == (3, 1)
    assert agreement.f1 == pytest.approx(2 / 3)


def test_what_is_watched_is_the_last_pictures_with_boxes() -> None:
    watched = Disagreement(lambda outputs: outputs["boxes"])
    assert watched({"boxes": boxes()}, {"boxes": boxes()}) == 0.0
    for _ in range(3):
        assert watched({"boxes": boxes(BOX)}, {"boxes": boxes(BOX)}) == 0.0
    assert watched({"boxes": boxes()}, {"boxes": boxes(BOX)}) == pytest.approx(1 / 7)
    watched.forget()
    assert watched({"boxes": boxes(BOX)}, {"boxes": boxes(BOX)}) == 0.0


def test_thresholds_follow_from_agreement() -> None:
    watched = Disagreement(lambda outputs: outputs["boxes"])
    kept = Accuracy(0.02, Budget(), incremental=True, disagreement=watched)
    begun = kept.delta_scale
    one = {"boxes": boxes(BOX)}
    for _ in range(40):  # of 16 pictures with one box each: one more would be beyond the limit
        kept.observe(watched(one, one))
    assert kept.delta_scale == begun
    many = {"boxes": boxes(*([left, 0.0, left + 5, 5.0, 0.5, 0.0] for left in range(0, 100, 10)))}
    for _ in range(60):
        kept.observe(watched(many, many))
    assert kept.delta_scale == 8.0
    assert kept.observe(0.1)
    assert (kept.delta_scale or 0.0) <= 1.6
    assert "the least F1 0.900" in kept.line()
    assert "below the limit of 0.98" in kept.line()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"min_agreement": 0.98}, "is for --delta-compute"),
        ({"min_agreement": 0.98, "delta_compute": True, "max_error": 0.1}, "either"),
        ({"min_agreement": 0.98, "delta_compute": True}, "needs a detector"),
    ],
)
def test_what_agreement_needs(more: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Stream("alexnet", "generated:64x64", **more)
