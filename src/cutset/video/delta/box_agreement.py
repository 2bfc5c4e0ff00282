"""How far detections agree with those of the dense network: F1 over pictures, by which thresholds are found."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BoxAgreement", "Boxes", "Detections", "Disagreement", "matched", "score_moved"]

# What a network's outputs, by their names, say is in a picture.
Detections = Callable[[Mapping[str, NDArray[Any]]], "Boxes"]
Boxes = NDArray[np.floating]  # (n, 6): left, top, right, bottom, score, number of the class

IOU = 0.5  # intersection over union, at least
SCORE = 0.05  # that scores may differ by
MISSED = 2.0  # times SCORE: what a box without a pair is taken to have moved by
RECENT = 16  # pictures with boxes, over which agreement is pooled while it is watched


def matched(found: Boxes, truth: Boxes) -> int:
    """How many pairs of one class there are, one to one, whose boxes overlap and whose scores are close.

    The pair that overlaps most is taken first; then the next of what is left.
    """
    return len(_pairs(found, truth, SCORE))


def score_moved(found: Boxes, truth: Boxes) -> float:
    """The root of the mean square of what scores moved by, as a share of what they may; 0 without boxes.

    Pairs are those of `matched` whatever their scores. A box without a pair counts as one that moved by MISSED times
    as much as it may.
    """
    pairs = _pairs(found, truth, np.inf)
    moves = [(float(found[i, 4]) - float(truth[j, 4])) / SCORE for i, j in pairs]
    moves += [MISSED] * (max(len(found), len(truth)) - len(pairs))
    return float(np.sqrt(np.mean(np.square(moves)))) if moves else 0.0


def _pairs(found: Boxes, truth: Boxes, apart: float) -> list[tuple[int, int]]:
    """Numbers of boxes that belong together; scores may be so far apart."""
    if not len(found) or not len(truth):
        return []
    a, b = np.asarray(found, np.float64), np.asarray(truth, np.float64)
    sides = np.minimum(a[:, None, 2:4], b[None, :, 2:4]) - np.maximum(a[:, None, :2], b[None, :, :2])
    both = np.prod(np.maximum(sides, 0), axis=2)
    areas = [np.prod(np.maximum(boxes[:, 2:4] - boxes[:, :2], 0), axis=1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None, :] - both
    overlap = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    fits = (overlap >= IOU) & (a[:, None, 5] == b[None, :, 5]) & (np.abs(a[:, None, 4] - b[None, :, 4]) <= apart)
    overlap[~fits] = -1
    pairs = []
    while overlap.size and overlap.max() >= 0:
        i, j = np.unravel_index(int(overlap.argmax()), overlap.shape)
        overlap[i, :] = overlap[:, j] = -1
        pairs.append((int(i), int(j)))
    return pairs


@dataclass
class BoxAgreement:
    """Counts of the pictures so far. Those in which neither side has a box are counted apart: they say nothing."""

    pairs: int = 0
    found: int = 0
    truth: int = 0
    pictures: int = 0
    empty: int = 0

    def add(self, found: Boxes, truth: Boxes) -> None:
        """One picture's detections, and those of the dense network."""
        self.pictures += 1
        self.empty += not len(found) and not len(truth)
        self.pairs += matched(found, truth)
        self.found += len(found)
        self.truth += len(truth)

    @property
    def f1(self) -> float:
        """2 pairs / (found + truth); 1 where there was nothing to find and nothing was found."""
        total = self.found + self.truth
        return 2 * self.pairs / total if total else 1.0


class Disagreement:
    """1 - F1 over the last pictures in which either side had a box: an error for `cutset.video.accuracy.Accuracy`."""

    def __init__(self, detections: Detections) -> None:
        self._detections = detections
        self._recent: deque[tuple[int, int]] = deque(maxlen=RECENT)  # pairs, and boxes of both sides

    def __call__(self, found: Mapping[str, NDArray[Any]], wanted: Mapping[str, NDArray[Any]]) -> float:
        """Takes the outputs of one picture, and those of the dense network."""
        ours, truth = self._detections(found), self._detections(wanted)
        if len(ours) or len(truth):
            self._recent.append((matched(ours, truth), len(ours) + len(truth)))
        both = sum(boxes for _, boxes in self._recent)
        return 1 - 2 * sum(pairs for pairs, _ in self._recent) / both if both else 0.0

    def moved(self, found: Mapping[str, NDArray[Any]], wanted: Mapping[str, NDArray[Any]]) -> float:
        """What scores moved by, as a share of what they may: `score_moved`."""
        return score_moved(self._detections(found), self._detections(wanted))

    @property
    def boxes(self) -> float:
        """How many each side had in these pictures: with fewer than 1 / limit, one more that is off is too many."""
        return sum(boxes for _, boxes in self._recent) / 2

    def forget(self) -> None:
        """What was seen was by other thresholds."""
        self._recent.clear()
