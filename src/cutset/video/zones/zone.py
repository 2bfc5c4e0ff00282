"""Zones: named polygons in a camera's pictures, from a YAML or TOML file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.config import did_you_mean, parse_toml, read_bounded
from cutset.errors import ConfigError
from cutset.models.files.plain_yaml import parse_yaml

__all__ = ["Zone", "read_zones"]

MOST_ZONES, MOST_CORNERS = 200, 200
FARTHEST = 1e6  # pixels
NAME = re.compile(r"[^\s\x00-\x1f\x7f/+#][^\x00-\x1f\x7f/+#]{0,63}")
UNNAMED = re.compile("class [0-9]{1,9}")
KEYS = ("polygon", "camera", "cameras", "labels", "stays", "inertia", "units")
FORM = "zones: {door: {polygon: [[0.1, 0.5], [0.4, 0.5], [0.4, 1.0], [0.1, 1.0]]}}"


@dataclass(frozen=True)
class Zone:
    """`corners` (n, 2): x and y, in shares of the picture where `relative`, else in the source's pixels.

    `cameras` and `labels` are those that count; all, where they are empty. `stays`: seconds inside after which that is
    an event. `inertia`: pictures in a row that an object must be inside, or outside, until that counts.
    """

    name: str
    corners: NDArray[np.float64]
    relative: bool
    cameras: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    stays: float | None = None
    inertia: int = 1

    def in_pixels(self, size: tuple[int, int]) -> NDArray[np.float64]:
        """The corners in a picture of so many rows and columns."""
        found: NDArray[np.float64] = self.corners * ((size[1], size[0]) if self.relative else 1.0)
        return found

    def watches(self, camera: str) -> bool:
        return not self.cameras or camera in self.cameras

    def holds(self, point: tuple[float, float], size: tuple[int, int]) -> bool:
        """Whether a point, in pixels, is inside: by the even-odd rule, so that of two zones that share a border one has
        it. Whoever is cut off by the picture's lower edge stands on it, and counts as within the picture."""
        x, y = (min(at, math.nextafter(side, 0.0)) for at, side in zip(point, (size[1], size[0]), strict=True))
        ends = self.in_pixels(size)
        starts = np.roll(ends, 1, axis=0)
        crosses = (starts[:, 1] > y) != (ends[:, 1] > y)
        rise = np.where(crosses, ends[:, 1] - starts[:, 1], 1.0)
        at = starts[:, 0] + (y - starts[:, 1]) / rise * (ends[:, 0] - starts[:, 0])
        return bool(np.count_nonzero(crosses & (x < at)) % 2)


def read_zones(path: Path, cameras: Sequence[str], classes: Sequence[str] = ()) -> list[Zone]:
    """The zones of a file, .toml or else YAML (or JSON, which is YAML). `classes`: those that a network knows, if that
    is known; a zone for others would have no event. Raises ConfigError."""
    text = read_bounded(path)
    document = parse_toml(text, str(path)) if path.suffix == ".toml" else parse_yaml(text, str(path), decimals=True)
    if isinstance(document, dict) and set(document) == {"zones"}:
        document = document["zones"]
    if isinstance(document, list):
        named = [
            (each.get("name"), {k: v for k, v in each.items() if k != "name"})
            for each in document
            if isinstance(each, dict)
        ]
        if len(named) < len(document) or len({str(name) for name, _ in named}) < len(named):
            raise ConfigError(f"{path}: each zone of a list needs a name of its own")
    elif isinstance(document, dict):
        named = list(document.items())
    else:
        named = []
    if not named or len(named) > MOST_ZONES:
        raise ConfigError(f"{path} has {len(named) or 'no'} zones; write 1 to {MOST_ZONES}, as {FORM}")
    return [_zone(f"{path}: zone {str(name)[:64]!r}", name, value, cameras, classes) for name, value in named]


def _zone(where: str, name: Any, value: Any, cameras: Sequence[str], classes: Sequence[str]) -> Zone:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(f"{where}: a name is a text of up to 64 characters without '/', '+' and '#'")
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be a table with a polygon")
    for key in value:
        if key not in KEYS:
            raise ConfigError(f"{where}: {str(key)[:60]!r} is not known{did_you_mean(str(key)[:60], KEYS)}")
    corners = _corners(where, value.get("polygon"))
    relative = bool((corners >= 0).all() and (corners <= 1).all())
    if (units := value.get("units")) is not None:
        if units not in ("relative", "pixels"):
            raise ConfigError(f"{where}: units are 'relative' or 'pixels', not {str(units)[:40]!r}")
        if units == "relative" and not relative:
            raise ConfigError(f"{where}: relative coordinates are from 0 to 1")
        relative = units == "relative"
    watched = _texts(where, value, "camera") + _texts(where, value, "cameras")
    for one in watched:
        if one not in cameras:
            raise ConfigError(f"{where}: there is no camera {one[:60]!r}{did_you_mean(one[:60], cameras)}")
    labels = _texts(where, value, "labels")
    for one in labels:
        if classes and one not in classes and not UNNAMED.fullmatch(one):
            raise ConfigError(f"{where}: there is no class {one[:60]!r}{did_you_mean(one[:60], classes)}")
    return Zone(
        name,
        corners,
        relative,
        watched,
        labels,
        _number(where, value, "stays", 0.0, 1e7),
        int(_number(where, value, "inertia", 1, 1000, whole=True) or 1),
    )


def _corners(where: str, polygon: Any) -> NDArray[np.float64]:
    if isinstance(polygon, str):  # as Frigate writes them: 0.1,0.5,0.4,0.5
        parts = polygon.split(",") if len(polygon) < 10_000 else []
        try:
            numbers = [float(part) for part in parts]
        except ValueError:
            numbers = []
        polygon = [numbers[i : i + 2] for i in range(0, len(numbers), 2)]
    right = isinstance(polygon, list) and all(
        isinstance(point, list)
        and len(point) == 2
        and all(type(v) in (int, float) and math.isfinite(v) and abs(v) <= FARTHEST for v in point)
        for point in polygon
    )
    if not right or not 3 <= len(polygon) <= MOST_CORNERS:
        raise ConfigError(f"{where}: a polygon has 3 to {MOST_CORNERS} corners, as [[0.1, 0.5], [0.4, 0.5], …]")
    corners = np.array(polygon, np.float64)
    if np.linalg.matrix_rank(corners - corners[0]) < 2:
        raise ConfigError(f"{where}: its corners are on one line: nothing can be inside")
    return corners


def _texts(where: str, value: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = value.get(key, ())
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list | tuple) or len(found) > 1000 or not all(isinstance(one, str) for one in found):
        raise ConfigError(f"{where}: {key} must be a text, or a list of texts")
    return tuple(found)


def _number(
    where: str, value: Mapping[str, Any], key: str, low: float, high: float, *, whole: bool = False
) -> float | None:
    found = value.get(key)
    if found is None:
        return None
    if type(found) not in ((int,) if whole else (int, float)) or not low <= found <= high:
        raise ConfigError(f"{where}: {key} must be a {'whole ' if whole else ''}number from {low:g} to {high:g}")
    return float(found)
