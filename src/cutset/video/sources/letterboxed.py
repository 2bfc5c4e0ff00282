"""Pictures in the middle of ones of another size, their proportions kept: what most detectors were trained with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cutset.video.sources.libav import libav
from cutset.video.sources.picture import Picture, Source, check_size
from cutset.video.sources.placement import Placement

__all__ = ["LetterboxedSource", "scaled"]

GREY = 114  # around the picture


class LetterboxedSource(Source):
    """Another source's pictures within ones of `size` rows and columns, each with its placement and itself.

    They have no packets: whoever decodes those gets other pixels. Raises SourceError, or DeviceError without PyAV.
    """

    def __init__(self, source: Source, size: tuple[int, int]) -> None:
        check_size(source.name, size)
        libav()
        self.name, self.rate, self.live, self.faults = source.name, source.rate, source.live, source.faults
        self.size = size
        self._source = source

    def __iter__(self) -> Iterator[Picture]:
        for picture in self._source:
            rows, columns = picture.pixels.shape[2:]
            placement = Placement.letterbox((rows, columns), self.size)
            framed = np.full((1, 3, *self.size), GREY, np.uint8)
            top, left = placement.corner
            inner = scaled(picture.pixels, placement.inner)
            framed[:, :, top : top + placement.inner[0], left : left + placement.inner[1]] = inner
            yield replace(
                picture, pixels=framed, packets=None, opens=False, placement=placement, original=picture.pixels
            )

    def cancel(self) -> None:
        self._source.cancel()

    def close(self) -> None:
        self._source.close()


def scaled(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture (1, 3, rows, columns) in another size, by FFmpeg's bicubic filter: the same bits on every machine."""
    if pixels.shape[2:] == size:
        return pixels
    av = libav()
    how = av.video.reformatter.Interpolation
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[0].transpose(1, 2, 0)), format="rgb24")
    smaller = frame.reformat(
        size[1], size[0], format="rgb24", interpolation=how.BICUBIC | how.ACCURATE_RND | how.BITEXACT, threads=1
    )
    found: NDArray[np.uint8] = smaller.to_ndarray().transpose(2, 0, 1)[None]
    return found
