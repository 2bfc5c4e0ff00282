"""Encoding pictures, where a plan or a comparison wants that: each as JPEG, or all of them as H.264."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import ConfigError, DeviceError, FrameError
from cutset.video.sources.codec import VideoCodec
from cutset.video.sources.libav import libav, reason
from cutset.video.sources.packets import PacketDecoder

__all__ = ["H264Encoder", "decode_jpeg", "encode_jpeg"]

QUALITY = 3  # FFmpeg's scale, 2 (best) to 31; about JPEG's 90
GROUP = 25  # pictures from one key frame to the next


def encode_jpeg(pixels: NDArray[np.uint8], quality: int = QUALITY) -> bytes:
    """A picture (1, 3, rows, columns) as JPEG, of sides of up to 16,384; `quality`: 2 (best) to 31. Lossy."""
    if not 2 <= quality <= 31:
        raise ConfigError(f"the quality of a JPEG is from 2 (best) to 31, not {quality}")
    context = _context("mjpeg", pixels.shape[2:], "yuvj420p")
    context.options = {"qmin": str(quality), "qmax": str(quality)}
    frame = _frame(pixels, "yuvj420p")
    packets = [*context.encode(frame), *context.encode(None)]
    return b"".join(map(bytes, packets))


def decode_jpeg(data: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture (1, 3, rows, columns) of that size. Raises FrameError for anything else."""
    if not data.endswith(b"\xff\xd9"):  # its end of image; FFmpeg would make up what is missing
        raise FrameError("a JPEG came that is cut short")
    return PacketDecoder(VideoCodec("mjpeg", b"", size, size)).decode((data, b""), opens=True)


class H264Encoder:
    """Pictures as H.264 (libx264), as a camera's encoder gives them: one packet each, no B-frames. Lossy.

    `quality`: x264's constant rate factor, 0 to 51, where less is better. Sides must be even. Raises ConfigError, and
    DeviceError where FFmpeg has no such encoder.
    """

    def __init__(self, size: tuple[int, int], *, quality: int = 23, group: int = GROUP) -> None:
        if size[0] % 2 or size[1] % 2:
            raise ConfigError(f"H.264 needs an even number of rows and columns, not {size[0]}x{size[1]}")
        if not 0 <= quality <= 51:
            raise ConfigError(f"the quality of H.264 is from 0 (best) to 51, not {quality}")
        self._context = _context("libx264", size, "yuv420p")
        self._context.gop_size = group
        self._context.options = {"preset": "veryfast", "tune": "zerolatency", "crf": str(quality), "sc_threshold": "0"}
        self._count = 0
        self.codec = VideoCodec("h264", b"", size, size)  # parameters come before every key frame

    def encode(self, pixels: NDArray[np.uint8]) -> tuple[bytes, bool]:
        """The packet of a picture (1, 3, rows, columns), and whether it opens a group."""
        frame = _frame(pixels, "yuv420p")
        frame.pts = self._count
        self._count += 1
        [packet] = self._context.encode(frame)
        return bytes(packet), bool(packet.is_keyframe)


def _context(name: str, size: tuple[int, ...], pixels: str) -> Any:
    av = libav()
    try:
        context = av.CodecContext.create(name, "w")
    except (av.FFmpegError, ValueError) as error:
        raise DeviceError(f"this machine's FFmpeg has no encoder {name}: {reason(error)}") from None
    context.height, context.width = size
    context.pix_fmt = pixels
    context.framerate = 25
    context.time_base = Fraction(1, 25)
    context.thread_count = 1
    return context


def _frame(pixels: NDArray[np.uint8], target: str) -> Any:
    """A frame of FFmpeg's in the encoder's own format."""
    av = libav()
    how = av.video.reformatter.Interpolation
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[0].transpose(1, 2, 0)), format="rgb24")
    return frame.reformat(format=target, interpolation=how.BICUBIC | how.ACCURATE_RND | how.BITEXACT, threads=1)
