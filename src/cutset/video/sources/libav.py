"""PyAV, which brings FFmpeg's libraries: loaded late, quiet, and its errors in words."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import DeviceError
from cutset.video.sources.orientation import UPRIGHT, turn, turned_size

__all__ = ["libav", "reason", "to_rgb"]


@cache
def libav() -> Any:
    """The module. Raises DeviceError where it isn't installed."""
    try:
        import av
        import av.logging
    except ImportError:
        raise DeviceError("reading video needs PyAV: pip install 'cutset[stream]'") from None
    av.logging.set_level(av.logging.PANIC)  # what matters comes as an error; FFmpeg's own lines may show addresses
    return av


def reason(error: Exception) -> str:
    """What FFmpeg or the system says, without the file's name, which the caller gives."""
    if isinstance(error, libav().error.ExitError):  # PyAV's own timeout
        return "nothing came in time"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0].lower()


def to_rgb(frame: Any, size: tuple[int, int], orientation: int = UPRIGHT) -> NDArray[np.uint8]:
    """A decoded frame as uint8 (1, 3, rows, columns) of that size, turned: the same bits on every machine.

    They are those of FFmpeg's own `rgb24` with `-sws_flags bicubic+accurate_rnd+bitexact+full_chroma_int`. Without the
    two in the middle its arithmetic depends on the instruction set; without the last one two pixels share a colour.
    """
    av = libav()
    how = av.video.reformatter.Interpolation
    rows, columns = turned_size(size, orientation)
    planar = frame.reformat(
        columns,
        rows,
        format="gbrp",
        interpolation=how.BICUBIC | how.ACCURATE_RND | how.BITEXACT | how.FULL_CHR_H_INT,
        threads=1,
    )
    pixels = np.empty((1, 3, rows, columns), np.uint8)
    for channel, plane in zip((1, 2, 0), planar.planes, strict=True):
        lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        pixels[0, channel] = lines[:rows, :columns]
    return turn(pixels, orientation)
