"""Small videos and pictures for tests."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from cutset.video.sources import GeneratedSource


def frame_of(pixels: np.ndarray) -> av.VideoFrame:
    """An FFmpeg frame of a picture (1, 3, rows, columns)."""
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[0].transpose(1, 2, 0)), format="rgb24")


def pictures(count: int, size: tuple[int, int] = (48, 64), seed: int = 0) -> list[np.ndarray]:
    """Made-up pictures in which everything moves a bit, so that none equals another."""
    source = GeneratedSource(size, seed=seed, shapes=4, noise=0.1)
    return [source.pixels(i) for i in range(count)]


def write_clip(
    path: Path,
    shown: Sequence[np.ndarray],
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    group: int = 6,
    pixels: str = "yuv420p",
) -> Path:
    """Writes a video in the container that the name's ending says."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options or {})
        stream.height, stream.width = shown[0].shape[2:]
        stream.pix_fmt = pixels
        stream.codec_context.gop_size = group
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, 10)
        for i, picture in enumerate(shown):
            frame = frame_of(picture)
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_png(path: Path, picture: np.ndarray, codec: str = "png", pixels: str = "rgb24") -> Path:
    context = av.CodecContext.create(codec, "w")
    context.height, context.width = picture.shape[2:]
    context.pix_fmt, context.time_base, context.framerate = pixels, Fraction(1, 25), 25
    frame = frame_of(picture).reformat(format=pixels)
    path.write_bytes(b"".join(map(bytes, [*context.encode(frame), *context.encode(None)])))
    return path
