"""What an encoded video is encoded with, and where its groups of pictures begin.

A group begins with a picture that needs nothing before it, and nothing after it needs what came before. Both ends of
a link begin a new decoder there. So a decoder that begins in the middle of a video is in the same state as one that
has seen all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cutset.errors import ConfigError
from cutset.video.sources.orientation import UPRIGHT

__all__ = ["CODECS", "Parameters", "VideoCodec", "opens_group"]

# What may be forwarded: the decoders that a worker offers to whoever sends it packets.
CODECS = ("h264", "hevc", "av1", "vp9", "vp8", "mjpeg")
MAX_EXTRADATA = 64 << 10
LARGEST = 16384


@dataclass(frozen=True, slots=True)
class VideoCodec:
    """All that a decoder must know beforehand. Raises ConfigError for what isn't allowed.

    `coded`: rows and columns of the encoded pictures; `size`: of those that come out, scaled where they differ.
    `orientation`: how they are turned then, EXIF's number from 1 to 8.
    """

    name: str
    extradata: bytes
    coded: tuple[int, int]
    size: tuple[int, int]
    orientation: int = UPRIGHT

    def __post_init__(self) -> None:
        if self.name not in CODECS:
            raise ConfigError(f"packets of {self.name[:40]!r} aren't forwarded; those of {', '.join(CODECS)} are")
        if len(self.extradata) > MAX_EXTRADATA:
            raise ConfigError(f"a codec's extra data has at most {MAX_EXTRADATA} bytes, not {len(self.extradata)}")
        if not all(type(side) is int and 0 < side <= LARGEST for side in (*self.coded, *self.size)):
            raise ConfigError(f"pictures have 1 to {LARGEST} rows and columns, not {self.coded} or {self.size}")
        if type(self.orientation) is not int or not 1 <= self.orientation <= 8:
            raise ConfigError(f"an orientation is from 1 to 8, not {self.orientation}")


def opens_group(codec: VideoCodec, packet: bytes, key: bool) -> bool:
    """Whether a group of pictures begins with this packet; `key`: its container says that it is a key frame.

    For H.264 and HEVC only IDR pictures do: after other key frames there may be pictures that need older ones.
    """
    if codec.name == "h264":
        return key and any(unit[0] & 31 == 5 for unit in _units(packet, _prefix_bytes("h264", codec.extradata)))
    if codec.name == "hevc":
        return key and any(
            unit[0] >> 1 & 63 in (19, 20) for unit in _units(packet, _prefix_bytes("hevc", codec.extradata))
        )
    return key or codec.name == "mjpeg"


def _prefix_bytes(name: str, extradata: bytes) -> int:
    """Bytes of the length before each unit of H.264 and HEVC; 0 for start codes (Annex B)."""
    at = {"h264": 4, "hevc": 21}[name]
    return (extradata[at] & 3) + 1 if len(extradata) > at and extradata[0] == 1 else 0


def _units(packet: bytes, prefix: int) -> Iterator[memoryview]:
    """The units of a packet, none of them empty; with start codes a unit has those after it at its end."""
    view, at = memoryview(packet), 0
    while prefix and at + prefix < len(packet):
        size = int.from_bytes(packet[at : at + prefix], "big")
        if size:
            yield view[at + prefix : at + prefix + size]
        at += prefix + size
    while not prefix and (at := packet.find(b"\0\0\1", at)) >= 0 and at + 3 < len(packet):
        at += 3
        yield view[at:]


def _joined(parts: Iterable[bytes | memoryview], prefix: int) -> bytes:
    """A packet of these units. Raises OverflowError for one that is too long for its prefix."""
    return b"".join((len(part).to_bytes(prefix, "big") if prefix else b"\0\0\0\1") + bytes(part) for part in parts)


class Parameters:
    """A video whose parameters change goes on: the new ones go into the packets, before the pictures that need them.

    A decoder was told one codec's extra data when the stream began, here and at a worker. Where a container says others
    later, both get them as the codec itself would carry them, so that nothing but packets has to be sent or kept. `now`
    is the extra data in force, where it isn't the codec's.

    Methods raise ValueError for extra data that is cut off, OverflowError for units too long for the codec's lengths.
    """

    def __init__(self, codec: VideoCodec, now: bytes | None = None) -> None:
        self._codec = codec
        self._now = codec.extradata
        self._news = False
        if now is not None:
            self.change(now)

    def change(self, extradata: bytes) -> None:
        """The packet after this is the first one with other parameters."""
        self._news |= extradata != self._now
        self._now = extradata

    def lengths(self, packet: bytes) -> bytes:
        """The packet with units as the codec's extra data says they are."""
        name = self._codec.name
        if self._now == self._codec.extradata or name not in ("h264", "hevc"):
            return packet
        before, after = _prefix_bytes(name, self._now), _prefix_bytes(name, self._codec.extradata)
        if before == after:
            return packet
        return _joined(_units(packet, before) if before else _start_coded(packet), after)

    def before(self, opens: bool) -> bytes:
        """What goes before the packet, which `opens` a group or doesn't."""
        news, self._news = self._news, False
        if not news and (not opens or self._now == self._codec.extradata):
            return b""
        name = self._codec.name
        if name == "av1" and self._now[:1] == b"\x81":
            return self._now[4:]
        if name not in ("h264", "hevc"):
            return b""
        after = _prefix_bytes(name, self._codec.extradata)
        if not _prefix_bytes(name, self._now):
            return _joined(_start_coded(self._now), after) if after else self._now
        return _joined(_h264(self._now) if name == "h264" else _hevc(self._now), after)


def _start_coded(data: bytes) -> Iterator[bytes]:
    for part in data.split(b"\0\0\1")[1:]:
        if unit := part.rstrip(b"\0"):
            yield unit


def _h264(record: bytes) -> Iterator[bytes]:
    """Parameter sets of an AVCDecoderConfigurationRecord."""
    at = 5
    for mask in (31, 255):
        count, at = _number(record, at, 1) & mask, at + 1
        for _ in range(count):
            unit = _unit(record, at)
            at += 2 + len(unit)
            yield unit


def _hevc(record: bytes) -> Iterator[bytes]:
    """Parameter sets of an HEVCDecoderConfigurationRecord."""
    at = 23
    for _ in range(_number(record, 22, 1)):
        count, at = _number(record, at + 1, 2), at + 3
        for _ in range(count):
            unit = _unit(record, at)
            at += 2 + len(unit)
            yield unit


def _unit(record: bytes, at: int) -> bytes:
    size = _number(record, at, 2)
    if at + 2 + size > len(record):
        raise ValueError("parameters of the video are cut off")
    return record[at + 2 : at + 2 + size]


def _number(record: bytes, at: int, size: int) -> int:
    if at + size > len(record):
        raise ValueError("parameters of the video are cut off")
    return int.from_bytes(record[at : at + size], "big")
