"""Forms in which a plan may send pictures, each for itself, in place of payloads.

An entry in `FORMS` is all that a form takes: both ends, what it costs, planners and their words read it from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cutset.errors import FrameError
from cutset.video.sources.encode import decode_jpeg, encode_jpeg

__all__ = ["FORMS", "LOSSY", "PictureForm"]

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PictureForm:
    """One picture, uint8 (1, channels, rows, columns), as bytes.

    `decode` gets bytes of another party's and the picture's shape. It may give a read-only array, allocates no more
    than such a picture needs, and raises FrameError for what isn't one. Either end may raise DeviceError where a
    library is missing.
    """

    words: str  # what is sent, in the explanation of a plan
    encode: Callable[[Pixels], bytes]
    decode: Callable[[bytes, tuple[int, ...]], Pixels]
    most: Callable[[int], int]  # bytes that a picture of so many bytes may take
    lossy: bool = False  # `decode` gives other pixels back; no plan is given it unless it is asked for
    planned: bool = True  # planners may choose it; otherwise it is compared with, or named in a plan file
    channels: int | None = None  # the only number of channels that it can have


def _floats(pixels: Pixels) -> bytes:
    return (pixels.astype(np.float32) / np.float32(255)).tobytes()


def _from_floats(data: bytes, shape: tuple[int, ...]) -> Pixels:
    if len(data) != 4 * math.prod(shape):
        raise FrameError("a picture of floats came that hasn't its size")
    values = np.frombuffer(data, np.float32)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise FrameError("a picture of floats has values that aren't from 0 to 1")
    pixels: Pixels = np.rint(values * np.float32(255)).astype(np.uint8)
    return pixels.reshape(shape)


def _from_jpeg(data: bytes, shape: tuple[int, ...]) -> Pixels:
    height, width = shape[2:]
    return decode_jpeg(data, (height, width))


FORMS = {
    "float32": PictureForm("float32 pictures", _floats, _from_floats, lambda nbytes: 4 * nbytes, planned=False),
    "jpeg": PictureForm("JPEG pictures", encode_jpeg, _from_jpeg, lambda nbytes: nbytes + 1024, lossy=True, channels=3),
}
LOSSY = frozenset(name for name, form in FORMS.items() if form.lossy)
