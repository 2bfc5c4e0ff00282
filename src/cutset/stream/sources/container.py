"""Pictures from whatever FFmpeg opens, with the packets that make them where the codec is one that can be forwarded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from cutset.errors import FrameError, SourceError
from cutset.stream.sources.codec import CODECS, MAX_EXTRADATA, VideoCodec, opens_group
from cutset.stream.sources.libav import libav, reason, to_rgb
from cutset.stream.sources.packets import Decoded, PacketDecoder, size_text
from cutset.stream.sources.picture import Picture, Source, check_size

__all__ = ["ContainerSource"]


class ContainerSource(Source):
    """The first video stream of a file, camera or address.

    `place` is what FFmpeg opens and `name` what messages say. Raises SourceError when it can't be opened or has no
    pictures: the first one is decoded at once.
    """

    def __init__(
        self,
        place: str,
        name: str,
        *,
        size: tuple[int, int] | None = None,
        container: str | None = None,
        options: Mapping[str, str] | None = None,
        timeout: tuple[float, float] | None = None,
    ) -> None:
        """`size`: rows and columns to scale to. `timeout`: seconds to open, and until the next packet."""
        av = libav()
        self.name = name
        start = time.monotonic()
        try:
            self._container: Any = av.open(place, format=container, options=dict(options or {}), timeout=timeout)
        except (av.FFmpegError, ValueError, OSError) as error:
            # FFmpeg calls what it was interrupted in by many names.
            late = timeout is not None and time.monotonic() - start >= timeout[0]
            said = f"no answer in {timeout[0]:g} s" if timeout and late else reason(error)
            raise SourceError(f"can't open {name}: {said}") from None
        try:
            self._begin(size)
        except BaseException:
            self.close()
            raise

    def _begin(self, size: tuple[int, int] | None) -> None:
        streams = self._container.streams.video
        if not streams:
            raise SourceError(f"{self.name} has no video stream")
        self._stream = stream = streams[0]
        coded = (stream.height, stream.width)
        check_size(self.name, coded)
        self.size = size or coded
        check_size(self.name, self.size)
        self.rate = float(stream.average_rate) if stream.average_rate else None
        extradata = bytes(stream.codec_context.extradata or b"")
        codec = stream.codec_context.codec.canonical_name
        if codec in CODECS and len(extradata) <= MAX_EXTRADATA:
            self.codec = VideoCodec(codec, extradata, coded, self.size)
        self.coded = coded
        self._origin: int | None = None
        self._count = 0
        self._pictures = self._encoded(self.codec) if self.codec else self._plain()
        self._first: Picture | None = next(self._pictures, None)
        if self._first is None:
            raise SourceError(f"{self.name} has no pictures")

    def __iter__(self) -> Iterator[Picture]:
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        for picture in self._pictures:  # noqa: UP028 (who stops here may go on later)
            yield picture

    def close(self) -> None:
        self._container.close()

    def _packets(self) -> Iterator[Any]:
        """Packets with data."""
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:
                    yield packet
        except (libav().FFmpegError, ValueError) as error:
            raise SourceError(f"{self.name}: after {self._count} pictures: {reason(error)}") from None

    def _encoded(self, codec: VideoCodec) -> Iterator[Picture]:
        """Each group of pictures goes through a decoder of its own, as it does at a worker."""
        decoder = PacketDecoder(codec, any_size=True)
        pending: list[bytes] = []  # packets since the picture before
        fed, opens = 0, True

        def pictures() -> Iterator[Picture]:
            nonlocal opens
            while (decoded := decoder.ready()) is not None:
                packets = tuple(pending)
                pending.clear()
                yield self._picture(decoded, packets, opens)
                opens = False

        for packet in self._packets():
            data = bytes(packet)
            if fed and opens_group(codec, data, packet.is_keyframe):
                pending.append(b"")
                self._guarded(decoder.end)
                yield from pictures()
                decoder.begin()
                pending.clear()
                fed, opens = 0, True
            pending.append(data)
            self._guarded(decoder.feed, data, packet.pts)
            fed += 1
            yield from pictures()
        pending.append(b"")
        self._guarded(decoder.end)
        yield from pictures()

    def _plain(self) -> Iterator[Picture]:
        context = self._stream.codec_context
        context.thread_count = 1
        for packet in self._with_end():
            for frame in self._guarded(context.decode, packet):
                yield self._picture(Decoded(frame, frame.pts), None, False)

    def _with_end(self) -> Iterator[Any]:
        yield from self._packets()
        yield None  # what the codec held back

    def _guarded(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Errors of the codec say which picture it is."""
        try:
            return call(*arguments)
        except (FrameError, libav().FFmpegError) as error:
            said = str(error) if isinstance(error, FrameError) else reason(error)
            raise SourceError(f"{self.name}, picture {self._count}: {said}") from None

    def _picture(self, decoded: Decoded, packets: tuple[bytes, ...] | None, opens: bool) -> Picture:
        size = (decoded.frame.height, decoded.frame.width)
        if not self._count and size != self.coded:
            self._adopt(size)
        if size != self.coded:
            raise SourceError(
                f"{self.name}, picture {self._count}: {size_text(size)} after ones of {size_text(self.coded)}"
            )
        pixels = self._guarded(to_rgb, decoded.frame, self.size)
        self._count += 1
        return Picture(self._count - 1, pixels, self._time(decoded), packets, opens)

    def _adopt(self, size: tuple[int, int]) -> None:
        """The first picture decides, whatever its container says."""
        check_size(self.name, size)
        if self.size == self.coded:
            self.size = size
        self.coded = size
        if self.codec:
            self.codec = replace(self.codec, coded=size, size=self.size)

    def _time(self, decoded: Decoded) -> float:
        if decoded.stamp is None or self._stream.time_base is None:
            return (self._count - 1) / (self.rate or 25.0)
        if self._origin is None:
            self._origin = decoded.stamp
        return float((decoded.stamp - self._origin) * self._stream.time_base)
