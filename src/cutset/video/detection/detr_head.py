"""DETR heads: a class and a box for each of a few queries, which need no suppression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cutset.errors import ConfigError
from cutset.video.detection.boxes import Detections, corners
from cutset.video.detection.output_decoder import (
    HeadFacts,
    HeadLimits,
    Outputs,
    Seen,
    logits_seen,
    rows_of,
    sigmoid,
    softmax,
)
from cutset.video.detection.ssd_head import boxes_and_scores

__all__ = ["DetrHead"]

SCORE = 0.5
SIGMOID = (80, 90, 91, 365, 366)  # classes of COCO and Objects365 without one for nothing


class DetrHead:
    """Logits (1, queries, classes) and boxes (1, queries, 4): middle, width and height in shares of the picture, or in
    pixels. The last class is nothing where there is one more than names (DETR, softmax); else each class is one sigmoid
    (RT-DETR, RF-DETR, Deformable DETR). Without names the number of classes decides: 92 are COCO's with nothing.
    """

    kind = "detr"

    def __init__(self, facts: HeadFacts, limits: HeadLimits) -> None:
        """Raises ConfigError for outputs that no such head has."""
        found = boxes_and_scores(facts)
        if found is None:
            raise ConfigError(
                f"no outputs of a DETR head: logits (1, queries, classes) and boxes (1, queries, 4); these are "
                f"{facts.shown()}"
            )
        self._boxes, self._logits, wide = found
        self.names: Sequence[str] = facts.names
        self._least = SCORE if limits.score is None else limits.score
        self._most, self._picture = limits.most, facts.picture
        self._nothing = wide == len(facts.names) + 1 if facts.names else wide > 1 and wide not in SIGMOID
        self._pixels, self._shares = Seen(-1.0, 2.0), logits_seen()

    def decode(self, outputs: Outputs) -> Detections:
        """See OutputDecoder."""
        boxes = rows_of(outputs[self._boxes], self._boxes)
        scores = rows_of(outputs[self._logits], self._logits)
        if self._shares.look(scores):
            scores = softmax(scores) if self._nothing else sigmoid(scores)
        if self._nothing:
            scores = scores[:, :-1]
        rows, columns = self._picture
        fine = np.isfinite(boxes).all(axis=1)
        if not self._pixels.look(boxes[fine]):
            boxes = boxes * np.array([columns, rows, columns, rows], np.float32)
        boxes, classes = corners(boxes), scores.argmax(axis=1)
        best = scores[np.arange(len(scores)), classes]
        fine &= (best >= self._least) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        order = np.argsort(-best, kind="stable")
        return Detections(boxes, best, classes.astype(np.int64), self.names).chosen(order[fine[order]][: self._most])
