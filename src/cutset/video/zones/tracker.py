"""Which detections of two pictures are one object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import DeviceError
from cutset.video.detection.boxes import Detections, overlaps

__all__ = ["TrackedObject", "Tracker"]

OVERLAP = 0.2  # the least of a detection with where an object is expected
PATIENCE = 2.0  # seconds without a detection, after which an object is gone
MOST = 1000  # objects of a camera
SMOOTH = 0.5  # weight of the newest movement


@dataclass(eq=False)
class TrackedObject:
    """An object of one class. Times are seconds of the tracker's clock, `box` the last one that was detected."""

    number: int
    label: str
    score: float
    box: NDArray[np.float64]
    since: float
    seen: float
    speed: NDArray[np.float64]  # of the middle, pixels a second
    pictures: int = 1  # in which it was detected

    def expected(self, time: float) -> NDArray[np.float64]:
        """Where its box is at a time, if it moves on as it did."""
        shift = self.speed * min(max(time - self.seen, 0.0), PATIENCE)
        found: NDArray[np.float64] = self.box + np.concatenate([shift, shift])
        return found


class Tracker:
    """Follows the objects of one camera: detections go to the objects of their class whose expected boxes they overlap
    most in all (the assignment of least cost). One that isn't detected for `patience` seconds is gone.

    Numbers of objects are never used again. Raises DeviceError without scipy.
    """

    def __init__(self, overlap: float = OVERLAP, patience: float = PATIENCE) -> None:
        try:
            from scipy.optimize import linear_sum_assignment
        except ImportError:
            raise DeviceError("following objects needs scipy: pip install 'cutset[stream]'") from None
        self._assign: Any = linear_sum_assignment
        self._overlap, self._patience = overlap, patience
        self._next = 1
        self.objects: list[TrackedObject] = []

    def update(self, found: Detections, time: float) -> tuple[list[TrackedObject], list[TrackedObject]]:
        """Takes the detections of the next picture; the objects that are in it, and those that are gone by now."""
        labels = [found.label(i) for i in range(len(found))]
        boxes = found.boxes.astype(np.float64)
        here: list[TrackedObject] = []
        taken: set[int] = set()
        for one, i in self._pairs(boxes, labels, time):
            _move(one, boxes[i], float(found.scores[i]), time)
            here.append(one)
            taken.add(i)
        for i, label in enumerate(labels):
            if i not in taken and len(self.objects) < MOST:
                new = TrackedObject(self._next, label, float(found.scores[i]), boxes[i], time, time, np.zeros(2))
                self._next += 1
                self.objects.append(new)
                here.append(new)
        gone = [one for one in self.objects if time - one.seen > self._patience]
        self.objects = [one for one in self.objects if time - one.seen <= self._patience]
        return here, gone

    def _pairs(self, boxes: NDArray[np.float64], labels: list[str], time: float) -> list[tuple[TrackedObject, int]]:
        if not self.objects or not labels:
            return []
        shared = overlaps(np.array([one.expected(time) for one in self.objects]), boxes)
        still = overlaps(np.array([one.box for one in self.objects]), boxes)  # it may have stopped
        shared = np.maximum(shared, still)
        same = np.array([[one.label == label for label in labels] for one in self.objects])
        shared = np.where(same & (shared >= self._overlap), shared, 0.0)
        rows, columns = self._assign(-shared)
        return [(self.objects[r], int(c)) for r, c in zip(rows, columns, strict=True) if shared[r, c] > 0]


def _move(one: TrackedObject, box: NDArray[np.float64], score: float, time: float) -> None:
    if time > one.seen:
        moved = (box[:2] + box[2:] - one.box[:2] - one.box[2:]) / 2 / (time - one.seen)
        weight = SMOOTH if one.pictures > 1 else 1.0
        one.speed = weight * moved + (1 - weight) * one.speed
    one.box, one.score, one.seen = box, score, time
    one.pictures += 1
