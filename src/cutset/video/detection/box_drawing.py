"""Boxes drawn into pictures."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import DeviceError, printable
from cutset.video.detection.boxes import Detections

__all__ = ["annotated", "font", "pillow"]

# Colours that differ from each other and from most scenes; a class has one by its name.
COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#f032e6", "#9a6324", "#800000", "#808000")
ZONE = "#ffe119"
LONGEST = 40  # characters of a label


def pillow() -> Any:
    """The module PIL. Raises DeviceError where it isn't installed."""
    try:
        import PIL.Image
        import PIL.ImageDraw
        import PIL.ImageFilter
        import PIL.ImageFont
    except ImportError:
        raise DeviceError("drawing needs Pillow: pip install 'cutset[stream]'") from None
    return PIL


def annotated(
    pixels: NDArray[np.uint8], found: Detections, zones: Sequence[tuple[str, NDArray[Any]]] = ()
) -> NDArray[np.uint8]:
    """A picture (1, 3, rows, columns) with boxes, labels and scores in it, as (rows, columns, 3).

    `zones`: names and corners (n, 2) in the picture's pixels. Lines and letters are in proportion to the picture.
    """
    image_module = pillow()
    image = image_module.Image.fromarray(np.ascontiguousarray(pixels[0].transpose(1, 2, 0)))
    draw = image_module.ImageDraw.Draw(image)
    short = min(image.size)
    width, letters = max(1, round(short / 240)), font(max(9, round(short / 30)))
    for name, polygon in zones:
        points = [(float(x), float(y)) for x, y in polygon]
        draw.line([*points, points[0]], fill=ZONE, width=width, joint="curve")
        _write(draw, letters, points[0], name, ZONE, image.size)
    for i in reversed(range(len(found))):  # the best on top
        label = found.label(i)
        colour = colour_of(label)
        if found.polygons is not None:
            corners = [(float(x), float(y)) for x, y in found.polygons[i]]
            draw.line([*corners, corners[0]], fill=colour, width=width)
        else:
            left, top, right, bottom = (float(side) for side in found.boxes[i])
            # Inside of the box: the pixel at its right edge isn't in it.
            right, bottom = max(right - 1, left), max(bottom - 1, top)
            draw.rectangle([left, top, right, bottom], outline=colour, width=width)
        place = (float(found.boxes[i, 0]), float(found.boxes[i, 1]))
        _write(draw, letters, place, f"{label[:LONGEST]} {found.scores[i]:.2f}", colour, image.size)
    return np.asarray(image)


def colour_of(label: str) -> str:
    """The same in every run."""
    return COLOURS[hashlib.sha256(label.encode("utf-8", "replace")).digest()[0] % len(COLOURS)]


@lru_cache(maxsize=8)
def font(size: int) -> Any:
    """Letters of so many pixels. Raises DeviceError without Pillow."""
    fonts = pillow().ImageFont
    found = find_spec("matplotlib")  # it brings a font that has more than ASCII
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        with contextlib.suppress(OSError):
            return fonts.truetype(str(Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
    return fonts.load_default(size)


def _write(draw: Any, font: Any, place: tuple[float, float], text: str, colour: str, size: tuple[int, int]) -> None:
    """A text on its colour above a place, or below it at the top of the picture."""
    text = printable(text, lines=False)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    wide, high = right - left + 4, bottom - top + 4
    x = min(max(place[0], 0), max(size[0] - wide, 0))
    y = place[1] - high if place[1] >= high else place[1]
    y = min(max(y, 0), max(size[1] - high, 0))
    draw.rectangle([x, y, x + wide, y + high], fill=colour)
    dark = sum(int(colour[i : i + 2], 16) * share for i, share in ((1, 3), (3, 6), (5, 1))) < 1400
    draw.text((x + 2 - left, y + 2 - top), text, font=font, fill="white" if dark else "black")
