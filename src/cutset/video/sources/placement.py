"""Where a source's picture lies in the one that a network takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Placement"]


@dataclass(frozen=True, slots=True)
class Placement:
    """The picture of `native` rows and columns was scaled to `inner` ones, whose first is at `corner` of `size`.

    Coordinates are continuous: the pixel in column 0 reaches from 0 to 1.
    """

    native: tuple[int, int]
    size: tuple[int, int]
    inner: tuple[int, int]
    corner: tuple[int, int] = (0, 0)

    @classmethod
    def stretch(cls, native: tuple[int, int], size: tuple[int, int]) -> Placement:
        """All of `size` is the picture."""
        return cls(native, size, size)

    @classmethod
    def letterbox(cls, native: tuple[int, int], size: tuple[int, int]) -> Placement:
        """As large as fits without changing its proportions, in the middle."""
        scale = min(size[0] / native[0], size[1] / native[1])
        rows, columns = (min(max(round(side * scale), 1), most) for side, most in zip(native, size, strict=True))
        return cls(native, size, (rows, columns), ((size[0] - rows) // 2, (size[1] - columns) // 2))

    def to_native(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Points (…, 2), x before y, of the network's picture in the source's own pixels; those outside of it on its
        edge. Each axis is scaled by what it was scaled by, to the rounding of `inner`."""
        rows, columns = self.native
        factor = np.array([columns / self.inner[1], rows / self.inner[0]])
        found: NDArray[np.float64] = (np.asarray(points, np.float64) - self.corner[::-1]) * factor
        return found.clip(0.0, np.array([columns, rows]))

    def to_picture(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """The other way round."""
        rows, columns = self.native
        factor = np.array([self.inner[1] / columns, self.inner[0] / rows])
        found: NDArray[np.float64] = np.asarray(points, np.float64) * factor + self.corner[::-1]
        return found
