"""What a detector found in a picture, and the arithmetic of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.video.sources.placement import Placement

__all__ = ["Detections", "corners", "overlaps", "suppress"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Detections:
    """The best first. `boxes`: float32 (n, 4), left, top, right and bottom in pixels; `scores`: float32 (n,), 0 to 1;
    `classes`: int64 (n,), which `names` names. `polygons`: float32 (n, 4, 2), the corners of turned boxes, of text."""

    boxes: Floats
    scores: Floats
    classes: NDArray[np.int64]
    names: Sequence[str] = ()
    polygons: Floats | None = None

    @classmethod
    def none(cls, names: Sequence[str] = ()) -> Detections:
        """Of a picture with nothing in it."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), names)

    def __len__(self) -> int:
        return len(self.boxes)

    def label(self, i: int) -> str:
        """The name of a detection's class."""
        number = int(self.classes[i])
        return self.names[number] if 0 <= number < len(self.names) else f"class {number}"

    def chosen(self, which: NDArray[Any]) -> Detections:
        """Some of them, by index or mask."""
        polygons = None if self.polygons is None else self.polygons[which]
        return replace(
            self, boxes=self.boxes[which], scores=self.scores[which], classes=self.classes[which], polygons=polygons
        )

    def in_picture(self, placement: Placement) -> Detections:
        """The way back: those of the source's picture, in pixels of the network's."""
        boxes = placement.to_picture(self.boxes.reshape(-1, 2, 2)).reshape(-1, 4).astype(np.float32)
        polygons = None if self.polygons is None else placement.to_picture(self.polygons).astype(np.float32)
        return replace(self, boxes=boxes, polygons=polygons)

    def in_source(self, placement: Placement) -> Detections:
        """In pixels of the source's own picture, without those that lie outside of it."""
        boxes = placement.to_native(self.boxes.reshape(-1, 2, 2)).reshape(-1, 4).astype(np.float32)
        polygons = None if self.polygons is None else placement.to_native(self.polygons).astype(np.float32)
        found = replace(self, boxes=boxes, polygons=polygons)
        return found.chosen((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))


def corners(boxes: NDArray[Any]) -> Floats:
    """Boxes (n, 4) by their corners, of ones by middle, width and height."""
    middle, half = boxes[:, :2].astype(np.float32), boxes[:, 2:].astype(np.float32) / 2
    return np.concatenate([middle - half, middle + half], axis=1)


def overlaps(one: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union of boxes (n, 4) with boxes (m, 4): (n, m). Boxes without an area overlap nothing."""
    one, others = np.asarray(one, np.float64), np.asarray(others, np.float64)
    low = np.maximum(one[:, None, :2], others[None, :, :2])
    high = np.minimum(one[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1) for boxes in (one, others)]
    either = areas[0][:, None] + areas[1][None, :] - shared
    found: NDArray[np.float64] = np.divide(shared, either, out=np.zeros_like(shared), where=either > 0)
    return found


def suppress(
    boxes: NDArray[Any], scores: NDArray[Any], classes: NDArray[Any], limit: float, most: int
) -> NDArray[np.int64]:
    """Non-maximum suppression: the indices of at most `most` boxes, best first, of which no two of one class overlap
    by more than `limit`. Of equal scores the one that comes first counts as better."""
    left = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    kept: list[int] = []
    while left.size and len(kept) < most:
        best, left = left[0], left[1:]
        kept.append(int(best))
        same = classes[left] == classes[best]
        over = np.zeros(left.size, bool)
        over[same] = overlaps(boxes[best][None], boxes[left[same]])[0] > limit
        left = left[~over]
    return np.array(kept, np.int64)
