"""SSD heads: boxes and scores of many places, by anchors or as they are; and detectors that give chosen boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import ConfigError
from cutset.video.detection.boxes import Detections, corners
from cutset.video.detection.output_decoder import (
    HeadFacts,
    HeadLimits,
    Outputs,
    Seen,
    best_of,
    logits_seen,
    rows_of,
    sigmoid,
    softmax,
)

__all__ = ["SsdHead", "boxes_and_scores", "default_boxes"]

SCORE = 0.25
VARIANCES = np.array([0.1, 0.1, 0.2, 0.2], np.float32)  # torchvision's weights 10, 10, 5, 5, and Caffe's SSD
SCALES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0)  # of torchvision's SSDLite: the sides of its anchors, map after map
RATIOS = (2, 3)
MOST_CLASSES = 1_000_000
LARGEST_GROWTH = 4.135  # of a side's logarithm: 62 times


class SsdHead:
    """Boxes (1, n, 4) and scores (1, n, classes), or, where the network has chosen, a class and a score for each.

    Boxes are corners in pixels, or in shares of the picture; TensorFlow's `detection_boxes` have y before x. With
    anchors (n, 4: middle, width and height in shares of the picture) boxes are what those are moved and scaled by;
    as many as torchvision's SSDLite has for such pictures are taken for its.
    Scores are shares, or logits: of softmax with class 0 for nothing, or of sigmoids where there are as many as names.
    """

    kind = "ssd"

    def __init__(self, facts: HeadFacts, limits: HeadLimits) -> None:
        """Raises ConfigError for outputs that no such head has."""
        names = facts.names
        if names and names[0].strip("_").lower() == "background":  # it has no box
            names = names[1:]
        self.names: Sequence[str] = names
        self._least = SCORE if limits.score is None else limits.score
        self._limits, self._picture = limits, facts.picture
        self._anchors, self._classes, self._count = facts.anchors, "", ""
        found = boxes_and_scores(facts)
        if found is not None:
            self._boxes, self._scores, wide = found
        else:
            self._boxes, self._scores, self._classes = _chosen(facts)
            wide = 0
            self._count = next((name for name, shape in facts.find("num") if np.prod(shape) == 1), "")
        if self._anchors is None and wide:
            rows = next(shape[-2] for name, shape in facts.outputs if name == self._boxes)
            usual = default_boxes(facts.picture)
            self._anchors = usual if rows == len(usual) else None
        if self._anchors is not None:
            rows = next(shape[-2] for name, shape in facts.outputs if name == self._boxes)
            if self._anchors.shape != (rows, 4):
                raise ConfigError(f"the anchors are {list(self._anchors.shape)[:4]}; the head has {rows} boxes")
        self._down_first = "detection_boxes" in self._boxes.lower()
        self._sigmoid = bool(wide) and len(names) == wide
        self._background = bool(wide) and len(names) == wide - 1 and wide > 1
        self._decided = bool(names)
        self._pixels, self._logits = Seen(-1.0, 2.0), logits_seen()

    def decode(self, outputs: Outputs) -> Detections:
        """See OutputDecoder."""
        boxes = self._placed(rows_of(outputs[self._boxes], self._boxes))
        scores = outputs[self._scores]
        if self._classes:
            best = scores.reshape(-1).astype(np.float32)
            named = outputs[self._classes].reshape(-1).astype(np.float64)
            best[~((named >= 0) & (named < MOST_CLASSES))] = np.nan  # of no class: of no use
            classes = np.nan_to_num(named).clip(0, MOST_CLASSES).astype(np.int64)
            count = float(outputs[self._count].reshape(-1)[0]) if self._count else len(boxes)
            some = slice(0, int(np.nan_to_num(count).clip(0, len(boxes))))
            return best_of(Detections(boxes[some], best[some], classes[some], self.names), self._least, self._limits)
        shares, first = self._shares(rows_of(scores, self._scores))
        classes = shares.argmax(axis=1)
        best = shares[np.arange(len(shares)), classes]
        found = Detections(boxes, best, classes + (0 if self._decided else first), self.names)
        return best_of(found, self._least, self._limits)

    def _shares(self, scores: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
        """Scores of the classes that are something, and the number of the first of them."""
        logits = self._logits.look(scores)
        if not self._decided:
            self._background = scores.shape[1] > 1 and (logits or bool(np.allclose(scores.sum(axis=1), 1, atol=0.01)))
        if logits:
            scores = sigmoid(scores) if self._sigmoid or not self._background else softmax(scores)
        return (scores[:, 1:], 1) if self._background else (scores, 0)

    def _placed(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Corners in pixels."""
        rows, columns = self._picture
        scale = np.array([columns, rows, columns, rows], np.float32)
        if self._anchors is not None:
            moved = boxes * VARIANCES
            middle = self._anchors[:, :2] + moved[:, :2] * self._anchors[:, 2:]
            sides = self._anchors[:, 2:] * np.exp(np.minimum(moved[:, 2:], LARGEST_GROWTH))
            return corners(np.concatenate([middle, sides], axis=1)) * scale
        if self._down_first:
            boxes = boxes[:, [1, 0, 3, 2]]
        fine = boxes[np.isfinite(boxes).all(axis=1)]
        return boxes if self._pixels.look(fine) else boxes * scale


def default_boxes(picture: tuple[int, int]) -> NDArray[np.float32]:
    """The anchors (n, 4) of torchvision's SSDLite for pictures of that size: six for each place of six maps, of which
    the first has a sixteenth of the rows and columns, and each next one half of the one before."""
    rows, columns = (-(-side // 16) for side in picture)
    found = []
    for i, (scale, larger) in enumerate(pairwise(SCALES)):
        between = math.sqrt(scale * larger)
        sides = [(scale, scale), (between, between)]
        for ratio in RATIOS:
            wide, high = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
            sides += [(wide, high), (high, wide)]
        down, across = np.mgrid[0:rows, 0:columns] + 0.5
        middles = np.stack([across / columns, down / rows], axis=-1)[:, :, None, :]
        shape = (rows, columns, len(sides), 2)
        pairs = [np.broadcast_to(middles, shape), np.broadcast_to(np.clip(sides, 0, 1), shape)]
        found.append(np.concatenate(pairs, axis=-1).reshape(-1, 4))
        if i < len(SCALES) - 2:
            rows, columns = -(-rows // 2), -(-columns // 2)
    return np.concatenate(found).astype(np.float32)


def boxes_and_scores(facts: HeadFacts) -> tuple[str, str, int] | None:
    """The outputs (1, n, 4) and (1, n, classes) of a head, by name, and how many classes; None without such."""
    flat = [(name, shape) for name, shape in facts.outputs if len(shape) in (2, 3) and shape[:-2] in ((), (1,))]
    boxes = [(name, shape) for name, shape in flat if len(shape) > 1 and shape[-1] == 4]
    said = [(name, shape) for name, shape in boxes if any(w in name.lower() for w in ("box", "loc", "reg"))]
    for name, shape in said or boxes:
        for other, scores in flat:
            if other != name and len(scores) == len(shape) and scores[-2] == shape[-2]:
                return name, other, scores[-1]
    return None


def _chosen(facts: HeadFacts) -> tuple[str, str, str]:
    """Boxes, scores and classes, one each. Raises ConfigError."""

    def one(words: tuple[str, ...], fits: Any) -> str:
        return next((name for name, shape in facts.find(*words) if fits(shape)), "")

    boxes = one(("box",), lambda shape: len(shape) in (2, 3) and shape[-1] == 4)
    rows = next((shape[-2] for name, shape in facts.outputs if name == boxes), -1)
    scores = one(("score", "conf"), lambda shape: int(np.prod(shape)) == rows)
    classes = one(("label", "class"), lambda shape: int(np.prod(shape)) == rows)
    if not (boxes and scores and classes):
        raise ConfigError(
            f"no outputs of an SSD head: boxes (1, n, 4) and scores (1, n, classes), or boxes, scores and labels; "
            f"these are {facts.shown()}"
        )
    return boxes, scores, classes
