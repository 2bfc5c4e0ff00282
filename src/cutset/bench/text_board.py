"""Text in made-up pictures, for detectors of text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cutset.video.detection.box_drawing import font, pillow

__all__ = ["TextBoard"]

WORDS = ("Platform", "North", "Harbour", "Exit", "Market", "Garden", "Bridge", "Station", "Central", "Parking")
CLOCK = 10  # pictures, until it says something else


class TextBoard:
    """Lines of text at places that depend on the size alone. Raises DeviceError without Pillow."""

    def __init__(self, size: tuple[int, int]) -> None:
        rng = np.random.default_rng(3)
        self.size, self._height = size, max(size[0] // 22, 14)
        self._lines: list[tuple[int, int, NDArray[np.bool_], NDArray[np.uint8]]] = []
        for number, top in enumerate(range(self._height, size[0] - 2 * self._height, 3 * self._height)):
            across = self._height
            for _ in range(2 if number % 2 else 3):
                text = f"{WORDS[int(rng.integers(len(WORDS)))]} {int(rng.integers(10, 99))}"
                mask = self._drawn(text)
                if across + mask.shape[1] > size[1] - self._height:
                    break
                self._lines.append((top, across, mask, _colour(rng)))
                across += mask.shape[1] + int(rng.integers(2, 5)) * self._height
        self._clocks = [_colour(rng), _colour(rng)]

    def written(self, picture: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
        """A copy of picture `number` (1, 3, rows, columns), with text."""
        found = picture.copy()
        for k, (top, across, mask, colour) in enumerate(self._lines):
            _put(found, top, (across + number) % max(self.size[1], 1) if k == 0 else across, mask, colour)
        for k, colour in enumerate(self._clocks):
            mask = self._drawn(f"{7 + k:02}:{number // CLOCK % 60:02}")
            _put(found, self.size[0] - 2 * self._height, (1 + 8 * k) * self._height, mask, colour)
        return found

    def _drawn(self, text: str) -> NDArray[np.bool_]:
        """(rows, columns): where the letters are."""
        own = font(self._height)
        left, top, right, bottom = own.getbbox(text)
        image = pillow().Image.new("L", (int(right - left) + 2, int(bottom - top) + 2), 0)
        pillow().ImageDraw.Draw(image).text((1 - left, 1 - top), text, font=own, fill=255)
        return np.asarray(image) > 127


def _colour(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Nearly white or nearly black."""
    return rng.integers(0, 30, 3).astype(np.uint8) + np.uint8(225 * int(rng.integers(2)))


def _put(picture: NDArray[np.uint8], top: int, left: int, mask: NDArray[np.bool_], colour: NDArray[np.uint8]) -> None:
    there = picture[0, :, top : top + mask.shape[0], left : left + mask.shape[1]]
    there[:, mask[: there.shape[1], : there.shape[2]]] = colour[:, None]
