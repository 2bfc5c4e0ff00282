"""YOLO heads: a column of box, perhaps objectness, and classes for every place of the grids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cutset.errors import ConfigError
from cutset.video.detection.boxes import Detections, corners
from cutset.video.detection.output_decoder import HeadFacts, HeadLimits, Outputs, best_of, logits_seen, rows_of, sigmoid

__all__ = ["FEW_ROWS", "YoloHead", "box_counts"]

STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))
FEW_ROWS = 1000  # of a head that has chosen its boxes itself
SCORE = 0.25


class YoloHead:
    """Outputs (1, 4 + classes, n) as of YOLOv8 and v11, (1, n, 5 + classes) with objectness as of v5 and v7, either
    turned round, and (1, n, 6) of heads that need no suppression. Boxes are middle, width and height in pixels of the
    network's picture; scores may be logits. Further columns (masks, points) are left out where classes have names.
    """

    kind = "yolo"

    def __init__(self, facts: HeadFacts, limits: HeadLimits) -> None:
        """Raises ConfigError for outputs that no such head has."""
        self._output, shape = next(((n, s) for n, s in facts.outputs if len(s) == 3 and s[0] == 1), ("", ()))
        if not shape or min(shape[1:]) < 5:
            raise ConfigError(
                f"no output of a YOLO head: one is (1, 4 + classes, n) or (1, n, 5 + classes), not {facts.shown()}"
            )
        self.names: Sequence[str] = facts.names
        self._least = SCORE if limits.score is None else limits.score
        self._limits = limits
        first, last = shape[1:]
        self._logits = logits_seen()
        grids = box_counts(facts.picture)
        self._chosen = last == 6 and first <= FEW_ROWS and first not in grids and len(facts.names) != 1
        widths = (4 + len(facts.names), 5 + len(facts.names)) if facts.names else ()
        if first != last and (first in widths) != (last in widths):
            self._turned = first in widths
        elif (first in grids) != (last in grids):
            self._turned = last in grids
        else:  # as many columns as places: v8's way, if there are as many as v8 has
            self._turned = first == 4 + len(facts.names) if first == last else first < last
        if self._chosen:
            return
        columns = first if self._turned else last
        self._objectness = not self._turned
        masks = [s[1] for _, s in facts.outputs if len(s) == 4]  # prototypes of masks, a factor of each in a column
        self._classes = columns - 4 - self._objectness - (masks[0] if masks and masks[0] < columns - 5 else 0)
        if count := len(facts.names):
            if columns in (4 + count, 5 + count):
                self._objectness = columns == 5 + count
            elif columns < 4 + count:
                raise ConfigError(
                    f"the YOLO head has {columns - 4} classes, and {count} names were given: {facts.shown()}"
                )
            self._classes = count
        if self._classes < 1:
            raise ConfigError(f"the YOLO head has no column for a class: {facts.shown()}")

    def decode(self, outputs: Outputs) -> Detections:
        """See OutputDecoder."""
        array = outputs[self._output]
        rows = rows_of(array, self._output)
        if self._chosen:
            return self._as_chosen(rows)
        rows = rows.T if self._turned else rows  # (n, columns)
        start = 4 + self._objectness
        if rows.shape[1] < start + self._classes:
            raise ConfigError(
                f"the YOLO head gave {list(array.shape)}, where {start + self._classes} columns were expected"
            )
        scores = rows[:, start : start + self._classes]
        logits = self._logits.look(rows[:, 4 : start + self._classes])
        classes = scores.argmax(axis=1)
        best = scores[np.arange(len(scores)), classes]
        if logits:
            best = sigmoid(best)
        if self._objectness:
            best = best * (sigmoid(rows[:, 4]) if logits else rows[:, 4])
        return best_of(Detections(corners(rows[:, :4]), best, classes, self.names), self._least, self._limits)

    def _as_chosen(self, rows: NDArray[np.float32]) -> Detections:
        """Rows of corners, score and class."""
        fine = np.isfinite(rows).all(axis=1) & (rows[:, 4] >= self._least) & (rows[:, 4] > 0)
        fine &= (rows[:, 2:4] > rows[:, :2]).all(axis=1) & (rows[:, 5] >= 0) & (rows[:, 5] < 1e6)
        found = Detections(rows[:, :4], rows[:, 4], rows[:, 5].clip(0, 1e6).astype(np.int64), self.names)
        order = np.argsort(-found.scores, kind="stable")
        return found.chosen(order[fine[order]][: self._limits.most])


def box_counts(picture: tuple[int, int]) -> set[int]:
    """How many boxes heads give for pictures of that size: one or three for each place."""
    counts = [sum(-(-picture[0] // s) * -(-picture[1] // s) for s in strides) for strides in STRIDES]
    return {n * count for count in counts for n in (1, 3)}
