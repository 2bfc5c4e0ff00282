"""Encoded packets become pictures: the same bits at a worker as at the source."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import DeviceError, FrameError
from cutset.video.sources.codec import VideoCodec
from cutset.video.sources.libav import libav, reason, to_rgb

__all__ = ["Decoded", "PacketDecoder", "size_text"]

MARGIN = 64  # rows and columns that a codec may add to fill its blocks
AHEAD = 64  # pictures that may wait; the codecs hold back at most 16
MAX_PACKET = 64 << 20
# Decoders of codecs whose name is that of one which needs hardware.
SOFTWARE = {"av1": ("libdav1d", "libaom-av1")}


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture that isn't converted yet, and its time stamp, if its packet had one."""

    frame: Any
    stamp: int | None


class PacketDecoder:
    """Gives each picture of an encoded source from the packets that come with it. One thread, one at a time.

    FFmpeg's decoders are large and written in C: a worker that takes packets trusts them with what the sender sends.
    Only CODECS are offered, no packet is larger than 64 MiB, and before a picture is allocated its size is compared
    with the one that was agreed on. Whoever doesn't want that trust takes pictures as uint8.
    """

    def __init__(self, codec: VideoCodec, *, any_size: bool = False) -> None:
        """With `any_size` a picture of another size is decoded, so that it can be named; not for what others send.

        Raises DeviceError where PyAV or its decoder is missing.
        """
        self.codec = codec
        rows, columns = codec.coded
        self._most = 0 if any_size else (rows + MARGIN) * (columns + MARGIN)
        self._ready: deque[Decoded] = deque()
        self._context = self._open()

    def decode(self, packets: Sequence[bytes], *, opens: bool, skipped: int = 0) -> NDArray[np.uint8]:
        """The next picture (1, 3, rows, columns) from a Picture's or Restart's own packets, `opens` and `skipped`.

        Raises FrameError if the packets can't be decoded or don't make it; then go on with one that opens a group.
        """
        if opens:
            self.begin()
        promised = skipped + 1
        for packet in packets:
            if packet:
                self.feed(packet)
            else:
                self.end()
            while skipped and self._ready:
                self._ready.popleft()
                skipped -= 1
        if not self._ready or skipped:
            raise FrameError(f"the packets don't make the {promised} pictures that were promised")
        return to_rgb(self._ready.popleft().frame, self.codec.size, self.codec.orientation)

    def begin(self) -> None:
        """Forgets everything: the next packet opens a group."""
        self._ready.clear()
        self._context = self._open()

    def feed(self, packet: bytes, stamp: int | None = None) -> None:
        """Decodes a packet; `ready` has what came out."""
        if len(packet) > MAX_PACKET:
            raise FrameError(f"a packet of {len(packet)} bytes is larger than the limit of {MAX_PACKET}")
        one = libav().Packet(packet)
        one.pts = stamp
        self._take(one)

    def end(self) -> None:
        """Ends a group of pictures: what the codec held back comes out."""
        self._take(None)

    def ready(self) -> Decoded | None:
        """The next picture that came out, or None."""
        return self._ready.popleft() if self._ready else None

    def _open(self) -> Any:
        av = libav()
        context = None
        for name in SOFTWARE.get(self.codec.name, (self.codec.name,)):
            with contextlib.suppress(av.FFmpegError):
                context = av.CodecContext.create(name, "r")
                break
        if context is None:
            raise DeviceError(f"this machine's FFmpeg has no decoder for {self.codec.name} that needs no hardware")
        if self.codec.extradata:
            context.extradata = self.codec.extradata
        # Several threads would hold more pictures back.
        context.thread_count = 1
        if self._most:
            context.options = {"max_pixels": str(self._most)}
        return context

    def _take(self, packet: Any) -> None:
        try:
            frames = self._context.decode(packet)
        except (libav().FFmpegError, ValueError) as error:
            raise FrameError(f"packets of {self.codec.name} can't be decoded: {reason(error)}") from None
        for frame in frames:
            if self._most and (size := (frame.height, frame.width)) != self.codec.coded:
                raise FrameError(f"a picture of {size_text(size)} where {size_text(self.codec.coded)} was agreed on")
            self._ready.append(Decoded(frame, frame.pts))
        if len(self._ready) > AHEAD:
            raise FrameError(f"packets make more than {AHEAD} pictures that nobody asked for")


def size_text(size: tuple[int, int]) -> str:
    """Rows and columns as in `480x720`."""
    return f"{size[0]}x{size[1]}"
