"""Differentiable binarization (DB): a map of how likely each pixel is text, and the turned boxes of its regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import ConfigError, DeviceError
from cutset.video.detection.boxes import Detections
from cutset.video.detection.output_decoder import HeadFacts, HeadLimits, Outputs, logits_seen, sigmoid

__all__ = ["TextMask", "smallest_rectangle"]

PIXEL = 0.3  # from which a pixel counts as text
SCORE = 0.5  # of a box: the mean of its pixels
UNCLIP = 1.6  # the mask is a shrunk one: by how much of its area, by its perimeter, a box grows
SHORTEST = 3.0  # pixels of the shorter side
MOST_REGIONS = 1000
EDGE = 0.5  # pixels: those on the edge of a rectangle count in its score, as where it is filled

Points = NDArray[np.float64]


class TextMask:
    """A map (1, 1, rows, columns) of shares or logits. Every region of pixels above 0.3 becomes the smallest turned
    rectangle around it, which grows on all sides by area · 1.6 / perimeter, as in PaddleOCR.
    """

    kind = "db"

    def __init__(self, facts: HeadFacts, limits: HeadLimits) -> None:
        """Raises ConfigError for outputs that are no map, DeviceError without scipy."""
        self._output = next((n for n, s in facts.outputs if len(s) == 4 and s[:2] == (1, 1) and min(s[2:]) > 3), "")
        if not self._output:
            raise ConfigError(f"no output of a text detector: a map (1, 1, rows, columns), not {facts.shown()}")
        try:
            from scipy import ndimage
        except ImportError:
            raise DeviceError("masks of text need scipy: pip install 'cutset[stream]'") from None
        self._images: Any = ndimage
        self.names: Sequence[str] = facts.names[:1] or ("text",)
        self._least = SCORE if limits.score is None else limits.score
        self._most, self._picture = limits.most, facts.picture
        self._logits = logits_seen()

    def decode(self, outputs: Outputs) -> Detections:
        """See OutputDecoder."""
        array = outputs[self._output]
        if array.ndim != 4 or array.shape[:2] != (1, 1):
            raise ConfigError(
                f"the text detector gave {list(array.shape)[:8]}; a map (1, 1, rows, columns) was expected"
            )
        shares = np.nan_to_num(array[0, 0].astype(np.float32))
        if self._logits.look(shares):
            shares = sigmoid(shares)
        regions, count = self._images.label(shares > PIXEL, structure=np.ones((3, 3), np.int8))
        found: list[tuple[float, Points]] = []
        for number, place in enumerate(self._images.find_objects(regions, min(count, MOST_REGIONS)), 1):
            if place is not None and (one := self._box(regions[place] == number, shares, place)) is not None:
                found.append(one)
        if not found:
            return Detections.none(self.names)
        found.sort(key=lambda one: -one[0])
        scale = np.array(self._picture[::-1]) / shares.shape[::-1]
        polygons = np.array([polygon for _, polygon in found[: self._most]]) * scale
        boxes = np.concatenate([polygons.min(axis=1), polygons.max(axis=1)], axis=1)
        scores = np.array([score for score, _ in found[: self._most]], np.float32)
        return Detections(
            boxes.astype(np.float32), scores, np.zeros(len(scores), np.int64), self.names, polygons.astype(np.float32)
        )

    def _box(self, region: NDArray[np.bool_], shares: NDArray[np.float32], place: Any) -> tuple[float, Points] | None:
        """Score and corners of a region, or None where it is too small or too unlikely."""
        down = np.flatnonzero(region.any(axis=1))
        left = region[down].argmax(axis=1)
        right = region.shape[1] - 1 - region[down, ::-1].argmax(axis=1)
        ends = np.concatenate([np.stack([left, down], axis=1), np.stack([right, down], axis=1)])
        middle, axes, sides = smallest_rectangle(ends + np.array([place[1].start, place[0].start]))
        if min(sides) < SHORTEST:
            return None
        score = _mean_inside(shares, middle, axes, sides)
        if score < self._least:
            return None
        grown = sides + 2 * UNCLIP * sides.prod() / (2 * sides.sum())
        if min(grown) < SHORTEST + 2:
            return None
        half = axes * (grown / 2)[:, None]
        polygon = np.array([middle + a * half[0] + b * half[1] for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))])
        return score, _from_top_left(polygon)


def smallest_rectangle(points: NDArray[Any]) -> tuple[Points, Points, Points]:
    """The rectangle of least area around points (n, 2), which has a side along one of their hull's: its middle (2,),
    two directions (2, 2), and its sides along them (2,)."""
    hull = _hull(points)
    steps = np.roll(hull, -1, axis=0) - hull
    lengths = np.hypot(steps[:, 0], steps[:, 1])
    along = steps[lengths > 0] / lengths[lengths > 0, None]
    if not len(along):
        along = np.array([[1.0, 0.0]])
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    reach = np.stack([hull @ along.T, hull @ across.T])  # (2, points, directions)
    low, high = reach.min(axis=1), reach.max(axis=1)
    best = int(np.argmin(np.prod(high - low, axis=0)))
    axes = np.stack([along[best], across[best]])
    sides = (high - low)[:, best]
    middle: Points = ((high + low)[:, best] / 2) @ axes
    return middle, axes, sides


def _hull(points: NDArray[Any]) -> Points:
    """The convex hull of points (n, 2), in order."""
    ordered = np.unique(points, axis=0).astype(np.float64)
    if len(ordered) < 3:
        return ordered

    def chain(corners: Points) -> list[Points]:
        found: list[Points] = []
        for point in corners:
            while len(found) > 1 and _turn(found[-2], found[-1], point) <= 0:
                found.pop()
            found.append(point)
        return found[:-1]

    return np.array(chain(ordered) + chain(ordered[::-1]))


def _turn(a: Points, b: Points, c: Points) -> float:
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


def _mean_inside(shares: NDArray[np.float32], middle: Points, axes: Points, sides: Points) -> float:
    """The mean of the pixels that a rectangle holds or touches."""
    reach = np.abs(axes * (sides / 2 + EDGE)[:, None]).sum(axis=0)
    low = np.maximum(np.floor(middle - reach), 0).astype(int)
    high = np.minimum(np.ceil(middle + reach), np.array(shares.shape[::-1]) - 1).astype(int)
    columns, rows = np.meshgrid(np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1))
    away = np.abs((np.stack([columns, rows], axis=-1) - middle) @ axes.T)
    inside = (away <= sides / 2 + EDGE).all(axis=-1)
    return float(shares[low[1] : high[1] + 1, low[0] : high[0] + 1][inside].mean()) if inside.any() else 0.0


def _from_top_left(polygon: Points) -> Points:
    """Corners clockwise, as seen, from the one nearest to the top left."""
    middle = polygon.mean(axis=0)
    ordered = polygon[np.argsort(np.arctan2(polygon[:, 1] - middle[1], polygon[:, 0] - middle[0]))]
    return np.roll(ordered, -int(ordered.sum(axis=1).argmin()), axis=0)
