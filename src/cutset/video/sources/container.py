"""Pictures from whatever FFmpeg opens, with the packets that make them where the codec is one that can be forwarded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from cutset.errors import SourceError
from cutset.video.sources.codec import CODECS, MAX_EXTRADATA, VideoCodec
from cutset.video.sources.faults import Damage, Faults, Tolerance, no_log
from cutset.video.sources.groups import Groups, Shown
from cutset.video.sources.libav import libav, reason, to_rgb
from cutset.video.sources.orientation import UPRIGHT, frame_orientation, turned_size
from cutset.video.sources.packets import size_text
from cutset.video.sources.picture import Picture, Source, check_size
from cutset.video.sources.placement import Placement

__all__ = ["ContainerSource"]

PROBED = 16  # packets in which a picture must be, to say which way up it is
RATE = 25.0  # pictures a second, for their times, where nothing says more


class ContainerSource(Source):
    """The first video stream of a file, camera or address.

    `place` is what FFmpeg opens and `name` what messages say. Raises SourceError when it can't be opened or has no
    pictures: the first one is decoded at once. Pictures are turned as their container or EXIF says.
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
        tolerance: Tolerance | None = None,
        before: ContainerSource | None = None,
        log: Callable[[str], None] = no_log,
    ) -> None:
        """`size`: rows and columns to scale to. `timeout`: seconds to open, and until the next packet; of what is live.

        `before`: the same place when it was opened before. Packets then go to decoders that were made for its codec.
        `log` hears of packets that can't be decoded.
        """
        av = libav()
        self.name, self._wanted, self._live = name, size, timeout is not None
        self.faults = before.faults if before is not None else Faults()
        self._damage = Damage(name, self.faults, tolerance or Tolerance(), log)
        start = time.monotonic()
        try:
            self._container: Any = av.open(place, format=container, options=dict(options or {}), timeout=timeout)
        except (av.FFmpegError, ValueError, OSError) as error:
            # FFmpeg calls what it was interrupted in by many names.
            late = timeout is not None and time.monotonic() - start >= timeout[0]
            said = f"no answer in {timeout[0]:g} s" if timeout and late else reason(error)
            raise SourceError(f"can't open {name}: {said}") from None
        try:
            self._begin(before)
        except BaseException:
            self.close()
            raise

    def _begin(self, before: ContainerSource | None) -> None:
        self._stream = stream = self._choose()
        self.coded = (stream.height, stream.width)
        self.rate = float(stream.average_rate) if stream.average_rate else None
        self._time: float | None = None  # of the last picture
        self._origin: float | None = None
        self._demuxed = self._demux()
        self._ahead: deque[Any] = deque()
        self._orientation = UPRIGHT
        stream.codec_context.thread_count = 1
        extradata = bytes(stream.codec_context.extradata or b"")
        name = stream.codec_context.codec.canonical_name
        if name in CODECS and len(extradata) <= MAX_EXTRADATA:
            self._probe()
            check_size(self.name, self.coded)
            size = self._wanted or turned_size(self.coded, self._orientation)
            self.codec = VideoCodec(name, extradata, self.coded, size, self._orientation)
        groups = None
        if before is None and self.codec is not None:
            groups = Groups(self.codec, self._damage)
        elif before is not None:
            self.codec, own = before.codec, self.codec
            if self.codec and own and (own.name, own.orientation) == (self.codec.name, self.codec.orientation):
                groups = Groups(self.codec, self._damage, coded=self.codec.coded, extradata=extradata)
        self._agreed = before is not None
        frames = self._plain() if groups is None else groups.frames(self._packets())
        self._pictures = map(self._picture, frames)
        self._first: Picture | None = next(self._pictures, None)
        if self._first is None:
            raise SourceError(f"{self.name} has no pictures{self._damage.why and f': {self._damage.why}'}")

    def _choose(self) -> Any:
        """The first video stream that isn't the picture on the cover of a sound."""
        found = self._container.streams.video
        if not found:
            raise SourceError(f"{self.name} has no video stream")
        kinds = libav().stream.Disposition
        shown = [one for one in found if not one.disposition & (kinds.attached_pic | kinds.timed_thumbnails)]
        if not shown:
            raise SourceError(f"{self.name} has no video stream, only the picture of a cover")
        if shown[0].codec_context is None:
            raise SourceError(f"{self.name}: this machine's FFmpeg has no decoder for its video")
        return shown[0]

    def __iter__(self) -> Iterator[Picture]:
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        for picture in self._pictures:  # noqa: UP028 (who stops here may go on later)
            yield picture

    @property
    def finite(self) -> bool:
        """It says how long it is, so it has an end."""
        return self._container.duration is not None

    def close(self) -> None:
        self._container.close()

    def _demux(self) -> Iterator[Any]:
        """Packets with data."""
        av = libav()
        while True:
            try:
                for packet in self._container.demux(self._stream):
                    if packet.size:
                        yield packet
                return
            except (av.FFmpegError, ValueError) as error:
                if self._live:
                    raise SourceError(f"{self.name}: after {self._damage.pictures} pictures: {reason(error)}") from None
                self._damage.bad(reason(error))

    def _packets(self) -> Iterator[Any]:
        """Those that were looked at already, and the rest."""
        while self._ahead:
            yield self._ahead.popleft()
        yield from self._demuxed

    def _probe(self) -> None:
        """Which way up pictures are, and their size: containers say so only to their own decoder."""
        av, context = libav(), self._stream.codec_context
        for packet in islice(self._demuxed, PROBED):
            self._ahead.append(packet)
            data = bytes(packet)
            frames = []
            try:
                frames = context.decode(av.Packet(data)) or context.decode(None)
                context.flush_buffers()
            except (av.FFmpegError, ValueError):  # whoever decodes it for its pixels will say so
                context.flush_buffers()
            if frames:
                self._orientation = frame_orientation(frames[0], data)
                self.coded = (frames[0].height, frames[0].width)
                return

    def _plain(self) -> Iterator[Shown]:
        """Frames of a codec whose packets aren't forwarded."""
        av, context = libav(), self._stream.codec_context
        damage = self._damage
        for packet in self._with_end():
            if damage.waits if packet is None else not damage.takes(packet.is_keyframe):
                continue
            frames = []
            try:
                frames = context.decode(packet)
            except (av.FFmpegError, ValueError) as error:
                context.flush_buffers()
                damage.bad(reason(error))
            for frame in frames:
                if frame.is_corrupt:
                    damage.bad("a picture is incomplete")
                    break
                if not damage.pictures:
                    self._orientation = frame_orientation(frame, bytes(packet) if packet is not None else b"")
                yield Shown(frame, frame.pts)
        damage.end()

    def _with_end(self) -> Iterator[Any]:
        yield from self._packets()
        yield None  # what the codec held back

    def _picture(self, shown: Shown) -> Picture:
        coded, number = (shown.frame.height, shown.frame.width), self._damage.pictures
        if not number:
            self._adopt(coded)
        if coded != self.coded and self._wanted is None:
            now, first = (size_text(turned_size(size, self._orientation)) for size in (coded, self.coded))
            raise SourceError(
                f"{self.name}, picture {number}: {now} after ones of {first}; give a size to scale all of them to"
            )
        try:
            pixels = to_rgb(shown.frame, self.size, self._orientation)
        except libav().FFmpegError as error:
            raise SourceError(f"{self.name}, picture {number}: {reason(error)}") from None
        self._time = self._when(shown.stamp)
        self._damage.picture()
        native = turned_size(coded, self._orientation)
        placement = None if native == self.size else Placement.stretch(native, self.size)
        return Picture(number, pixels, self._time, shown.packets, shown.opens, shown.skipped, placement=placement)

    def _adopt(self, coded: tuple[int, int]) -> None:
        """The first picture decides, whatever its container says."""
        self.coded = coded
        self.size = self._wanted or turned_size(coded, self._orientation)
        check_size(self.name, self.size)
        if self.codec and not self._agreed:
            self.codec = replace(self.codec, coded=coded, size=self.size)

    def _when(self, stamp: int | None) -> float:
        """Seconds from the first picture: by the stamps, and by the rate where there is none or they begin again."""
        guess = 0.0 if self._time is None else self._time + 1 / (self.rate or RATE)
        if stamp is None or self._stream.time_base is None:
            return guess
        place = float(stamp * self._stream.time_base)
        if self._origin is None or (self._time is not None and place - self._origin <= self._time):
            self._origin = place - guess
        return place - self._origin
