"""Encoded packets become frames, each group of pictures through a decoder of its own, as at a worker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from cutset.errors import FrameError
from cutset.video.sources.codec import Parameters, VideoCodec, opens_group
from cutset.video.sources.faults import Damage
from cutset.video.sources.packets import PacketDecoder

__all__ = ["Groups", "Shown"]

MOST_AGAIN = 64 << 20  # bytes of a group that is decoded again where a packet of it is bad
MOST_NOTES = 256  # packets whose picture may still come; codecs have packets without one


@dataclass(frozen=True, slots=True)
class Shown:
    """A frame that is to be shown, its time stamp, and what a Picture says of it."""

    frame: Any
    stamp: int | None
    packets: tuple[bytes, ...] | None = None
    opens: bool = False
    skipped: int = 0


class Groups:
    """Reads a video. `damage` hears of packets that can't be decoded, and raises what is to end the reading.

    After a bad packet nothing is shown until the next key frame. What came before it in its group is: pictures that the
    codec holds back for their order, too. Pictures that the container hides (before the beginning of an edit) are
    decoded, since others need them, and count as skipped.

    `coded` is the size that a worker expects, the first picture's where it is None; `extradata` what the container has,
    where that isn't the codec's own. Frames of another size come without packets, and so does the rest of their group.
    """

    def __init__(
        self,
        codec: VideoCodec,
        damage: Damage,
        *,
        coded: tuple[int, int] | None = None,
        extradata: bytes | None = None,
    ) -> None:
        self._codec, self._damage, self._coded = codec, damage, coded
        self._parameters = Parameters(codec, extradata)
        self._decoder = PacketDecoder(codec, any_size=True)
        self._serial = 0  # stands for the time stamp in the decoder: containers have the same stamp twice
        self._forget()

    def _forget(self) -> None:
        """For the next group."""
        self._group: list[tuple[bytes, int]] | None = []  # its packets; None: they are too many
        self._nbytes = 0
        self._pending: list[bytes] = []  # packets since the picture before
        self._notes: dict[int, tuple[int | None, bool]] = {}  # a packet's stamp, and whether its picture is hidden
        self._opens, self._whole = True, True
        self._out = self._hidden = (
            0  # frames of this group that came out; of those, the hidden ones since one was shown
        )

    def frames(self, packets: Iterable[Any]) -> Iterator[Shown]:
        """What is to be shown of a container's packets."""
        for packet in packets:
            yield from self._packet(packet)
        yield from self._end()
        self._damage.end()

    def _packet(self, packet: Any) -> Iterator[Shown]:
        key = packet.is_keyframe or self._codec.name == "mjpeg"
        waited = self._damage.waits
        try:
            if packet.has_sidedata("new_extradata"):
                self._parameters.change(bytes(packet.get_sidedata("new_extradata")))
            if not self._damage.takes(key):
                return
            data = self._parameters.lengths(bytes(packet))
            if waited:
                self._begin()
            elif self._nbytes and opens_group(self._codec, data, key):
                yield from self._end()
                self._begin()
            self._serial += 1
            self._notes[self._serial] = (packet.pts, packet.is_discard)
            if len(self._notes) > MOST_NOTES:
                del self._notes[next(iter(self._notes))]
            data = self._parameters.before(not self._nbytes) + data
            self._decoder.feed(data, self._serial)
        except (FrameError, ValueError, OverflowError) as error:
            yield from self._held_back()
            if not self._damage.waits:
                self._spoil(str(error))
            return
        self._pending.append(data)
        self._remember(data)
        yield from self._ready()

    def _begin(self) -> None:
        self._decoder.begin()
        self._forget()

    def _remember(self, data: bytes) -> None:
        self._nbytes += len(data)
        if self._nbytes > MOST_AGAIN:
            self._group = None
        if self._group is not None:
            self._group.append((data, self._serial))

    def _end(self) -> Iterator[Shown]:
        """The rest of a group."""
        if self._damage.waits:
            return
        self._pending.append(b"")
        try:
            self._decoder.end()
        except FrameError as error:
            self._spoil(str(error))
            return
        yield from self._ready()

    def _ready(self) -> Iterator[Shown]:
        while not self._damage.waits and (decoded := self._decoder.ready()) is not None:
            frame = decoded.frame
            stamp, hidden = self._notes.pop(decoded.stamp or 0, (None, False))
            if frame.is_corrupt:  # the codec filled in what is missing, and later pictures are made from it
                self._spoil("a picture is incomplete")
                return
            self._out += 1
            if hidden:
                self._hidden += 1
                continue
            size = (frame.height, frame.width)
            self._coded = self._coded or size
            self._whole = self._whole and size == self._coded
            packets = tuple(self._pending) if self._whole else None
            shown = Shown(frame, stamp, packets, self._opens and self._whole, self._hidden if self._whole else 0)
            self._pending.clear()
            self._opens, self._hidden = False, 0
            yield shown

    def _held_back(self) -> Iterator[Shown]:
        """What was complete before a bad packet: its group again, without it, as a worker will see it."""
        if not self._group:
            return
        left = self._out
        self._decoder.begin()
        try:
            for data, serial in self._group:
                self._decoder.feed(data, serial)
                left = self._drop(left)
            self._decoder.end()
            left = self._drop(left)
        except FrameError:
            left = 1
        if not left:
            self._pending.append(b"")
            yield from self._ready()

    def _drop(self, count: int) -> int:
        while count and self._decoder.ready() is not None:
            count -= 1
        return count

    def _spoil(self, why: str) -> None:
        self._pending.clear()
        self._damage.bad(why)
