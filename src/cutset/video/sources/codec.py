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

__all__ = ["CODECS", "VideoCodec", "joined", "opens_group", "prefix_bytes", "units"]

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
        return key and any(unit[0] & 31 == 5 for unit in units(packet, prefix_bytes("h264", codec.extradata)))
    if codec.name == "hevc":
        return key and any(
            unit[0] >> 1 & 63 in (19, 20) for unit in units(packet, prefix_bytes("hevc", codec.extradata))
        )
    return key or codec.name == "mjpeg"


def prefix_bytes(name: str, extradata: bytes) -> int:
    """Bytes of the length before each unit of H.264 and HEVC; 0 for start codes (Annex B)."""
    at = {"h264": 4, "hevc": 21}[name]
    return (extradata[at] & 3) + 1 if len(extradata) > at and extradata[0] == 1 else 0


def units(packet: bytes, prefix: int) -> Iterator[memoryview]:
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


def joined(parts: Iterable[bytes | memoryview], prefix: int) -> bytes:
    """A packet of these units. Raises OverflowError for one that is too long for its prefix."""
    return b"".join((len(part).to_bytes(prefix, "big") if prefix else b"\0\0\0\1") + bytes(part) for part in parts)
