"""Pictures that are made up: shapes that move over a noisy background that stands still, as before a fixed camera."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import SourceError
from cutset.video.sources.picture import Picture, Source, check_size

__all__ = ["GeneratedSource"]

HELP = "write generated:480x720,seed=1,noise=0.02,shapes=3,pictures=100"
RATE = 25.0  # pictures a second, for their times
LIMITS = {"seed": 2**32 - 1, "noise": 1.0, "shapes": 64, "pictures": 2**31}


class GeneratedSource(Source):
    """`noise`: the share of pixels that differ from the background by up to 4 levels, others in every picture.

    Picture i depends on size, seed, noise, shapes and i alone, and is the same on every machine.
    """

    rate = None

    def __init__(
        self,
        size: tuple[int, int] = (480, 720),
        *,
        seed: int = 0,
        noise: float = 0.0,
        shapes: int = 3,
        pictures: int | None = None,
    ) -> None:
        self.name = f"generated:{size[0]}x{size[1]}"
        check_size(self.name, size)
        self.size, self.seed, self.noise, self.pictures = size, seed, noise, pictures
        self._next = 0
        rng = np.random.default_rng(seed)
        self._background = self._scene(rng)
        sides = max(min(size) // 5, 1)
        self._shapes = [
            (
                rng.integers(0, size, dtype=np.int64),  # where its corner is in picture 0
                rng.choice([-1, 1], 2) * rng.integers(1, max(sides // 6, 2), 2),  # rows and columns a picture
                rng.integers(max(sides // 2, 1), sides + 1, 2),  # its sides
                rng.integers(0, 256, (3, 1, 1), dtype=np.int16),  # its colour
                bool(rng.integers(2)),  # round
            )
            for _ in range(shapes)
        ]

    @classmethod
    def parse(cls, text: str, size: tuple[int, int] | None = None) -> GeneratedSource:
        """`generated:480x720,seed=1,noise=0.02,shapes=3,pictures=100`, all but the first word optional."""
        fields: dict[str, Any] = {}
        for word in filter(None, text.partition(":")[2].split(",")):
            key, _, value = word.partition("=")
            if found := re.fullmatch(r"([0-9]{1,5})[x×]([0-9]{1,5})", word):
                size = size or (int(found[1]), int(found[2]))
            elif key not in LIMITS:
                raise SourceError(f"{text!r}: {word!r} is not known; {HELP}")
            else:
                fields[key] = _number(text, key, value)
        return cls(size or (480, 720), **fields)

    def __iter__(self) -> Iterator[Picture]:
        while self.pictures is None or self._next < self.pictures:
            index = self._next
            self._next += 1
            yield Picture(index, self.pixels(index), index / RATE)

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """Picture `index`, (1, 3, rows, columns)."""
        picture = self._background.copy()
        rows, columns = self.size
        for corner, step, sides, colour, is_round in self._shapes:
            # It leaves on one side and comes back on the other.
            top, left = (corner + index * step) % (np.array(self.size) + sides) - sides
            down, across = np.mgrid[
                max(top, 0) : min(top + sides[0], rows), max(left, 0) : min(left + sides[1], columns)
            ]
            if not down.size:
                continue
            inner = 2 * (down - top) - sides[0], 2 * (across - left) - sides[1]
            inside = np.full(down.shape, True)
            if is_round:
                inside = inner[0] ** 2 * sides[1] ** 2 + inner[1] ** 2 * sides[0] ** 2 <= (sides[0] * sides[1]) ** 2
            here = picture[:, down[0, 0] : down[-1, 0] + 1, across[0, 0] : across[0, -1] + 1]
            texture = colour + ((down - top) * 5 + (across - left) * 3) % 23  # moves along with it
            here[:, inside] = np.clip(texture, 0, 255)[:, inside]
        if self.noise:
            rng = np.random.default_rng([self.seed, index + 1])
            where = rng.random(self.size, np.float32) < self.noise
            picture[:, where] += rng.integers(-4, 5, (3, int(where.sum())), dtype=np.int16)
        return np.clip(picture, 0, 255).astype(np.uint8)[None]

    def _scene(self, rng: np.random.Generator) -> NDArray[np.int16]:
        """Slopes of colour with texture."""
        rows, columns = self.size
        down, across = np.arange(rows, dtype=np.int64)[:, None], np.arange(columns, dtype=np.int64)[None, :]
        low, high = rng.integers(0, 256, (2, 3, 1, 1))
        slope = low + (high - low) * (down * columns + across * rows) // (2 * rows * columns)
        grain = rng.integers(-12, 13, (3, rows, columns))
        scene: NDArray[np.int16] = np.clip(slope + grain, 0, 255).astype(np.int16)
        return scene


def _number(text: str, key: str, value: str) -> int | float:
    try:
        number = float(value) if key == "noise" else int(value)
    except ValueError:
        raise SourceError(f"{text!r}: {key}={value!r} is no number; {HELP}") from None
    if not 0 <= number <= LIMITS[key]:
        raise SourceError(f"{text!r}: {key} must be from 0 to {LIMITS[key]:,}")
    return number
