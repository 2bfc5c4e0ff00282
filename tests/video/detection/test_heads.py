"""Detectors' outputs of every kind give the boxes that were put into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cutset.errors import ConfigError
from cutset.video.detection import HeadFacts, HeadLimits, choose_decoder
from cutset.video.detection.choosing import read_anchors
from cutset.video.detection.ssd_head import default_boxes

PICTURE = (64, 96)
NAMES = ("person", "car", "dog")
# Class, score, and corners: two cars that overlap, of which the better one is to be left.
THINGS = [(1, 0.9, (10, 12, 40, 44)), (1, 0.6, (12, 13, 41, 45)), (0, 0.8, (11, 12, 40, 43)), (2, 0.3, (60, 5, 90, 30))]
WANTED = [(1, 0.9, (10, 12, 40, 44)), (0, 0.8, (11, 12, 40, 43)), (2, 0.3, (60, 5, 90, 30))]
Array = NDArray[Any]


def middles(boxes: Any) -> Array:
    boxes = np.asarray(boxes, np.float64)
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)


def logit(share: Any) -> Array:
    share = np.clip(np.asarray(share, np.float64), 1e-6, 1 - 1e-6)
    return np.log(share / (1 - share))


def places(rows: int, columns: int) -> tuple[Array, Array]:
    """Boxes and class shares of as many places, with THINGS at some of them."""
    rng = np.random.default_rng(4)
    low = rng.random((rows, 2)) * 50
    boxes = np.concatenate([low, low + 1 + rng.random((rows, 2)) * 40], axis=1)
    shares = rng.random((rows, columns)) * 0.2
    for i, (number, score, box) in enumerate(THINGS):
        boxes[7 + 13 * i] = box
        shares[7 + 13 * i, number] = score
    return boxes, shares


def check(outputs: dict[str, Array], kind: str, **facts: Any) -> None:
    """The decoder that is chosen is of that kind, and finds what is wanted."""
    for limits in (HeadLimits(score=0.25), HeadLimits(score=0.7)):
        shapes = [(name, array.shape) for name, array in outputs.items()]
        found = choose_decoder(HeadFacts(shapes, PICTURE, **facts), limits)
        assert found is not None, shapes
        assert found.kind == kind
        for dtype in (np.float32, np.float16):
            if dtype is np.float16 and kind != "yolo":
                continue
            got = found.decode(
                {name: np.asarray(a, dtype if a.dtype.kind == "f" else a.dtype) for name, a in outputs.items()}
            )
            wanted = [one for one in WANTED if one[1] >= (limits.score or 0)]
            assert [int(c) for c in got.classes] == [c for c, _, _ in wanted]
            assert np.allclose(got.scores, [s for _, s, _ in wanted], atol=2e-3)
            assert np.allclose(got.boxes, [b for _, _, b in wanted], atol=0.06)
            if facts.get("names"):
                assert [got.label(i) for i in range(len(got))] == [NAMES[c] for c, _, _ in wanted]


GRID = 8 * 12 + 4 * 6 + 2 * 3  # places of strides 8, 16 and 32


@pytest.mark.parametrize("names", [(), NAMES])
@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("objectness", [False, True])
def test_yolo_heads(names: tuple[str, ...], logits: bool, turned: bool, objectness: bool) -> None:
    boxes, shares = places(GRID * (3 if objectness else 1), 3)
    columns = [middles(boxes)]
    if objectness:
        certain = np.full((len(boxes), 1), 0.97)
        columns.append(logit(certain) if logits else certain)
        shares = np.minimum(shares / 0.97, 1)
    columns.append(logit(shares) if logits else shares)
    head = np.concatenate(columns, axis=1)[None]
    turned = not objectness if not names else turned  # without names the layout says whether there is objectness
    check({"output0": head.transpose(0, 2, 1) if turned else head}, "yolo", names=names)


@pytest.mark.parametrize(("classes", "objectness"), [(80, False), (83, True), (84, False), (2, False)])
def test_a_yolo_head_with_about_as_many_columns_as_places(classes: int, objectness: bool) -> None:
    """YOLOv8 has 84 columns for COCO, and 84 places in pictures of 64 x 64."""
    names = tuple(map(str, range(classes)))
    count = 84 * (3 if objectness else 1)
    head = np.zeros((count, 4 + objectness + classes), np.float32)
    head[20, :4] = 30, 20, 10, 8
    head[20, 4 : 5 + objectness] = 0.9
    array = (head if objectness else head.T)[None]
    decoder = choose_decoder(HeadFacts([("o", array.shape)], (64, 64), names), HeadLimits(), "yolo")
    assert decoder is not None
    found = decoder.decode({"o": array})
    assert found.boxes.tolist() == [[25, 16, 35, 24]]
    assert found.classes.tolist() == [0]


def test_a_yolo_head_with_further_columns_and_one_that_has_chosen() -> None:
    boxes, shares = places(GRID, 3)
    masks = np.random.default_rng(0).normal(size=(GRID, 32)) * 9
    head = np.concatenate([middles(boxes), shares, masks], axis=1)[None].transpose(0, 2, 1)
    check({"output0": head, "output1": np.zeros((1, 32, 16, 24))}, "yolo", names=NAMES)
    check({"output0": head, "output1": np.zeros((1, 32, 16, 24))}, "yolo")
    rows = np.zeros((1, 300, 6))
    rows[0, : len(WANTED)] = [[*box, score, number] for number, score, box in WANTED]
    check({"output0": rows}, "yolo", names=NAMES)
    check({"output0": rows}, "yolo")


def test_what_a_yolo_head_can_give_that_is_no_box() -> None:
    boxes, shares = places(GRID, 3)
    head = np.concatenate([middles(boxes), shares], axis=1)
    bad = np.array([[np.nan, 1, 2, 2], [5, 5, -3, 4], [np.inf, 3, 4, 4], [9, 9, 0, 0], [9, 9, 3, 3]])
    for i, row in enumerate(bad):
        head[40 + i] = [*row, 0.99, 0.1, 0.1]
    head[44, 4:] = np.nan
    decoder = choose_decoder(HeadFacts([("o", (1, 7, GRID))], PICTURE, NAMES), HeadLimits())
    assert decoder is not None
    got = decoder.decode({"o": head.T[None].astype(np.float32)})
    assert [int(c) for c in got.classes] == [1, 0, 2]
    with pytest.raises(ConfigError, match="expected"):
        decoder.decode({"o": head.T[None, :5].astype(np.float32)})


@pytest.mark.parametrize("form", ["shares", "pixels", "softmax", "sigmoid", "background"])
def test_ssd_heads(form: str) -> None:
    boxes, shares = places(1500, 3)
    scale = 1.0 if form == "pixels" else np.array([96, 64, 96, 64])
    names: tuple[str, ...] = NAMES
    scores: Array = shares
    if form in ("softmax", "background"):
        share = shares / np.maximum(shares.sum(axis=1, keepdims=True), 1)  # so that there is a rest for nothing
        keep = shares.max(axis=1, keepdims=True)
        share = np.where(shares == keep, keep, (1 - keep) / 8)
        scores = np.concatenate([1 - share.sum(axis=1, keepdims=True), share], axis=1)
        scores = np.log(np.maximum(scores, 1e-9)) if form == "softmax" else scores
        names = ("__background__", *NAMES) if form == "background" else NAMES
    if form == "sigmoid":
        scores = logit(shares)
    shown = {"boxes": (boxes / scale)[None], "scores": scores[None]}
    facts = HeadFacts([(n, a.shape) for n, a in shown.items()], PICTURE, names)
    decoder = choose_decoder(facts, HeadLimits(score=0.25))
    assert decoder is not None
    assert decoder.kind == "ssd"
    got = decoder.decode(shown)
    assert [got.label(i) for i in range(len(got))] == ["car", "person", "dog"]
    assert np.allclose(got.boxes, [b for _, _, b in WANTED], atol=0.06)
    assert np.allclose(got.scores, [0.9, 0.8, 0.3], atol=1e-3)


def test_an_ssd_with_anchors(tmp_path: Path) -> None:
    boxes, shares = places(1500, 3)
    rng = np.random.default_rng(2)
    anchors = np.concatenate([rng.random((1500, 2)), 0.1 + rng.random((1500, 2))], axis=1)
    np.save(tmp_path / "anchors.npy", anchors)
    goal = middles(boxes / [96, 64, 96, 64])
    deltas = np.concatenate(
        [(goal[:, :2] - anchors[:, :2]) / anchors[:, 2:] / 0.1, np.log(goal[:, 2:] / anchors[:, 2:]) / 0.2], axis=1
    )
    read = read_anchors(tmp_path / "anchors.npy")
    check({"loc": deltas[None], "conf": logit(shares)[None]}, "ssd", names=NAMES, anchors=read)
    with pytest.raises(ConfigError, match="1500 boxes"):
        check({"loc": deltas[None], "conf": logit(shares)[None]}, "ssd", names=NAMES, anchors=read[:7])
    for wrong in (np.zeros((3, 5)), np.zeros((3, 4)), np.array([["a"]]), np.full((2, 4), np.nan)):
        np.save(tmp_path / "wrong.npy", wrong)
        with pytest.raises(ConfigError, match="anchors"):
            read_anchors(tmp_path / "wrong.npy")
    np.save(tmp_path / "pickled.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(ConfigError, match="file of numbers"):
        read_anchors(tmp_path / "pickled.npy")


def test_torchvisions_ssdlite_brings_its_anchors_by_their_number() -> None:
    anchors = default_boxes((320, 320))
    assert len(anchors) == 6 * (20 * 20 + 10 * 10 + 5 * 5 + 3 * 3 + 2 * 2 + 1)
    wanted = [[0.2, 0.2], [0.264575, 0.264575], [0.282843, 0.141421], [0.141421, 0.282843], [0.34641, 0.11547]]
    assert np.allclose(anchors[:5], [[0.025, 0.025, *sides] for sides in wanted], atol=1e-5)
    assert np.allclose(anchors[6 * 21], [0.075, 0.075, 0.2, 0.2]), "the second place of the second row"
    assert np.allclose(anchors[-6:, 2:].max(), 1), "cut off at the picture's sides"
    goal = np.array([[50, 60, 130, 220]]) / 320
    number = 6 * 210
    middle = middles(goal)[0]
    deltas, logits = np.zeros((3234, 4)), np.zeros((3234, 91))
    logits[:, 0] = 9
    logits[number, 3] = 30
    deltas[number, :2] = (middle[:2] - anchors[number, :2]) / anchors[number, 2:] / 0.1
    deltas[number, 2:] = np.log(middle[2:] / anchors[number, 2:]) / 0.2
    shapes = [("cat", (1, 3234, 91)), ("cat#2", (1, 3234, 4))]
    decoder = choose_decoder(HeadFacts(shapes, (320, 320)), HeadLimits())
    assert decoder is not None
    found = decoder.decode({"cat": logits[None], "cat#2": deltas[None]})
    assert found.classes.tolist() == [3]
    assert np.allclose(found.boxes, [[50, 60, 130, 220]], atol=0.01)


def test_detectors_that_give_chosen_boxes() -> None:
    count = 10
    boxes, scores, labels = np.zeros((1, count, 4)), np.zeros((1, count)), np.zeros((1, count), np.int64)
    for i, (number, score, box) in enumerate(WANTED):
        boxes[0, i], scores[0, i], labels[0, i] = box, score, number
    check({"labels": labels, "boxes": boxes, "scores": scores}, "ssd", names=NAMES)
    check({"labels": labels[0], "boxes": boxes[0], "scores": scores[0]}, "ssd", names=NAMES)
    scores[0, 3:] = 0.99  # behind the count
    tensorflow = boxes[..., [1, 0, 3, 2]] / [64, 96, 64, 96]
    check(
        {
            "detection_boxes": tensorflow,
            "detection_classes": labels.astype(np.float32),
            "detection_scores": scores,
            "num_detections": np.array([3.0]),
        },
        "ssd",
        names=NAMES,
    )


def test_chosen_boxes_that_are_no_numbers() -> None:
    boxes = np.array([[box for _, _, box in WANTED] * 2], np.float32)
    scores = np.array([[score for _, score, _ in WANTED] * 2], np.float32)
    labels = np.array([[number for number, _, _ in WANTED] + [np.nan, np.inf, -1]], np.float32)
    outputs = {"boxes": boxes, "scores": scores, "classes": labels, "num_detections": np.float32([6])}
    decoder = choose_decoder(HeadFacts([(n, a.shape) for n, a in outputs.items()], PICTURE, NAMES), HeadLimits())
    assert decoder is not None
    with np.errstate(all="raise"):
        assert [int(c) for c in decoder.decode(outputs).classes] == [1, 0, 2]
        for count, found in ((2, 2), (np.nan, 0), (np.inf, 3), (-np.inf, 0), (-1, 0), (1e30, 3)):
            outputs["num_detections"] = np.float32([count])
            assert len(decoder.decode(outputs)) == found, count


@pytest.mark.parametrize("nothing", [False, True])
@pytest.mark.parametrize("names", [(), NAMES])
def test_detr_heads(nothing: bool, names: tuple[str, ...]) -> None:
    boxes, shares = places(100, 3 if names else 80)
    shares[20] = 0.01  # the car that DETR would not find twice
    if nothing:
        best = shares.max(axis=1, keepdims=True)
        shares = np.where(shares == best, best, (1 - best) / 300)
        rest = 1 - shares.sum(axis=1, keepdims=True)
        logits = np.log(np.concatenate([shares, rest], axis=1))
    else:
        logits = logit(shares)
    outputs = {"logits": logits[None], "pred_boxes": middles(boxes / [96, 64, 96, 64])[None]}
    check(outputs, "detr", names=names)
    with pytest.raises(ConfigError, match="DETR"):
        choose_decoder(HeadFacts([("logits", (1, 10))], PICTURE), HeadLimits(), "detr")


def test_classifiers_and_features_are_no_detectors() -> None:
    for shapes in (
        [("logits", (1, 1000))],
        [("map", (1, 512, 7, 7))],
        [("tokens", (1, 197, 768))],
        [("map", (1, 1, 2, 2))],
        [],
    ):
        assert choose_decoder(HeadFacts(shapes, PICTURE), HeadLimits()) is None, shapes
        for kind in ("yolo", "ssd", "detr", "db"):
            if shapes and shapes[0][0] == "tokens" and kind == "yolo":
                continue
            with pytest.raises(ConfigError):
                choose_decoder(HeadFacts(shapes, PICTURE), HeadLimits(), kind)
    yolo = HeadFacts([("o", (1, 84, GRID))], PICTURE)
    assert choose_decoder(yolo, HeadLimits(), metadata={"task": "obb"}) is None, "turned boxes are another thing"
    with pytest.raises(ConfigError, match="did you mean 'yolo'"):
        choose_decoder(yolo, HeadLimits(), "yol")
    with pytest.raises(ConfigError, match="3 names"):
        choose_decoder(HeadFacts([("o", (1, 5, GRID))], PICTURE, NAMES), HeadLimits())
    for wrong in ({"score": 1.5}, {"overlap": -1.0}, {"most": 0}):
        with pytest.raises(ConfigError):
            HeadLimits(**wrong)
