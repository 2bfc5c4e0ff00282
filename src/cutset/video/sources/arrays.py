"""Pictures that a program has already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np

from cutset.errors import SourceError
from cutset.video.sources.packets import size_text
from cutset.video.sources.picture import Picture, Source, check_size

__all__ = ["ArraySource"]

RATE = 25.0  # pictures a second, for their times, where no rate is given


class ArraySource(Source):
    """Any iterable of uint8 arrays (3, rows, columns) or (1, 3, rows, columns), red, green, blue. Raises SourceError.

    The first is taken at once. Arrays are not copied where they are contiguous: don't write to them afterwards.
    """

    def __init__(self, arrays: Iterable[Any], *, name: str = "arrays", rate: float | None = None) -> None:
        self.name, self.rate = name, rate
        rest = iter(arrays)
        first = next(rest, None)
        if first is None:
            raise SourceError(f"{name}: there are no pictures")
        self.size = self._checked(0, first).shape[2:]
        self._pictures = enumerate(chain([first], rest))

    def __iter__(self) -> Iterator[Picture]:
        for index, array in self._pictures:
            pixels = self._checked(index, array)
            if pixels.shape[2:] != self.size:
                raise SourceError(
                    f"{self.name}, picture {index}: {size_text(pixels.shape[2:])} after ones of {size_text(self.size)}"
                )
            yield Picture(index, pixels, index / (self.rate or RATE))

    def _checked(self, index: int, array: Any) -> np.ndarray[Any, Any]:
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
            said = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise SourceError(f"{self.name}, picture {index}: give uint8 arrays, not {said}")
        shape = array.shape[1:] if array.ndim == 4 and array.shape[0] == 1 else array.shape
        if len(shape) != 3 or shape[0] != 3:
            hint = "; transpose it with array.transpose(2, 0, 1)" if len(shape) == 3 and shape[2] == 3 else ""
            raise SourceError(f"{self.name}, picture {index}: shape {array.shape} is not (3, rows, columns){hint}")
        check_size(self.name, shape[1:])
        return np.ascontiguousarray(array.reshape(1, *shape))
