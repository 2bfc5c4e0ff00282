"""What a picture costs in the other forms in which it may be sent: the source's own packets, JPEG, floating point."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import DeviceError
from cutset.partition.plan import PictureForm
from cutset.partition.traffic import Coded, Traffic

__all__ = ["float_form", "jpeg_form", "measured_forms", "packet_form"]


class _Clock:
    seconds = 0.0


@contextmanager
def _timed() -> Iterator[_Clock]:
    clock, begin = _Clock(), time.perf_counter()
    yield clock
    clock.seconds = time.perf_counter() - begin


def packet_form(codec: Any, pictures: Sequence[Any]) -> Traffic:
    """Of consecutive pictures of an encoded source, from its first one."""
    from cutset.video.sources import PacketDecoder

    decoder = PacketDecoder(codec)
    times = []
    for picture in pictures:
        with _timed() as clock:
            decoder.decode(picture.packets, opens=picture.opens, skipped=picture.skipped)
        times.append(clock.seconds)
    sizes = [sum(map(len, picture.packets)) for picture in pictures]
    typical = max(statistics.median(sizes), 1)
    key = Coded(max(sizes[0], 1), 0.0, times[0])
    return Traffic((key,), (Coded(typical, 0.0, statistics.median(times)),), statistics.fmean(sizes) / typical)


def jpeg_form(pictures: Sequence[NDArray[np.uint8]]) -> Traffic | None:
    """Of some pictures; None where PyAV isn't installed."""
    from cutset.video.sources import decode_jpeg, encode_jpeg

    ways = []
    try:
        for pixels in pictures:
            with _timed() as encode:
                data = encode_jpeg(pixels)
            with _timed() as decode:
                decode_jpeg(data, (pixels.shape[2], pixels.shape[3]))
            ways.append((len(data), encode.seconds, decode.seconds))
    except DeviceError:
        return None
    nbytes, encodes, decodes = zip(*ways, strict=True)
    return Traffic((Coded(statistics.fmean(nbytes), statistics.median(encodes), statistics.median(decodes)),))


def float_form(pixels: NDArray[np.uint8]) -> Traffic:
    """Numbers from 0 to 1 in four bytes each, as older systems send them."""
    with _timed() as encode:
        numbers = pixels.astype(np.float32) / np.float32(255)
    with _timed() as decode:
        numbers.copy()
    return Traffic((Coded(numbers.nbytes, encode.seconds, decode.seconds),))


def measured_forms(codec: Any, pictures: Sequence[Any], few: int = 5) -> dict[PictureForm, Traffic]:
    """All of them, for consecutive pictures of a source from its first one."""
    pixels = [picture.pixels for picture in pictures[:few]]
    found: dict[PictureForm, Traffic] = {"float32": float_form(pixels[0])}
    if (jpeg := jpeg_form(pixels)) is not None:
        found["jpeg"] = jpeg
    if codec is not None and all(picture.packets is not None for picture in pictures):
        found["packets"] = packet_form(codec, pictures)
    return found
