"""A picture that detectors of text find something in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["page"]


def page(height: int, width: int) -> NDArray[np.uint8]:
    """Dark strokes like letters on light paper."""
    random = np.random.default_rng(4)
    paper = np.full((1, 3, height, width), 235, np.uint8)
    for line in range(12, height - 16, 24):
        for x in range(10, width - 12, 8):
            if random.random() < 0.8:
                paper[:, :, line : line + 12, x : x + 2] = 20
                middle = line + int(random.integers(0, 10))
                paper[:, :, middle : middle + 2, x : x + 6] = 20
    return paper
