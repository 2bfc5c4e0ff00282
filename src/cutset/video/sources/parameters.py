"""A video whose parameters change goes on: the new ones go before the pictures that need them, in the packets.

A decoder was told one codec's extra data when the stream began, here and at a worker. Where a container says others
later, both get them as the codec itself would carry them. So nothing but packets has to be sent, kept or sent again.
"""

from __future__ import annotations

from collections.abc import Iterator

from cutset.video.sources.codec import VideoCodec, joined, prefix_bytes, units

__all__ = ["Parameters"]


class Parameters:
    """Of one stream of `codec`; `now` is the extra data in force, where it isn't the codec's.

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
        before, after = prefix_bytes(name, self._now), prefix_bytes(name, self._codec.extradata)
        if before == after:
            return packet
        return joined(units(packet, before) if before else _start_coded(packet), after)

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
        after = prefix_bytes(name, self._codec.extradata)
        if not prefix_bytes(name, self._now):
            return joined(_start_coded(self._now), after) if after else self._now
        return joined(_h264(self._now) if name == "h264" else _hevc(self._now), after)


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
