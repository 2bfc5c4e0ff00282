"""What a new decoder needs to go on in the middle of a video: packets are kept from where a group of pictures began."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from cutset.video.sources.picture import Picture

__all__ = ["PacketHistory", "Restart"]


@dataclass(frozen=True, slots=True)
class Restart:
    """`decode` of these gives the picture, and the ones after it go on from there."""

    packets: tuple[bytes, ...]
    skipped: int
    opens: bool = True


@dataclass(slots=True)
class _Kept:
    index: int
    packets: tuple[bytes, ...]
    opens: bool
    skipped: int


class PacketHistory:
    """Packets of the pictures that may have to be sent again, and of those before them in their group.

    At most `limit` bytes; a group that is longer is let go from its beginning, and can't be restarted: send the pixels.
    """

    def __init__(self, limit: int = 64 << 20) -> None:
        self._limit = limit
        self._kept: deque[_Kept] = deque()  # begins with one that opens a group
        self.nbytes = 0

    def add(self, picture: Picture) -> None:
        """The next picture of an encoded source."""
        if not picture.opens and not self._kept:
            return
        packets = picture.packets or ()
        self._kept.append(_Kept(picture.index, packets, picture.opens, picture.skipped))
        self.nbytes += sum(map(len, packets))
        while self.nbytes > self._limit and self._kept:
            self._drop_group()

    def forget(self, index: int) -> None:
        """Pictures before this one won't be asked for."""
        while (start := self._second_group()) is not None and start <= index:
            self._drop_group()

    def restart(self, index: int) -> Restart | None:
        """What gives that picture; None if its group isn't kept whole, or it was never added."""
        group: list[_Kept] = []
        for kept in self._kept:
            group = [kept] if kept.opens else [*group, kept]
            if kept.index == index:
                packets = tuple(packet for one in group for packet in one.packets)
                return Restart(packets, len(group) - 1 + sum(one.skipped for one in group))
        return None

    def _second_group(self) -> int | None:
        return next((kept.index for i, kept in enumerate(self._kept) if i and kept.opens), None)

    def _drop_group(self) -> None:
        while self._kept:
            self.nbytes -= sum(map(len, self._kept.popleft().packets))
            if self._kept and self._kept[0].opens:
                return
