"""Pictures, and what gives them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cutset.errors import SourceError
from cutset.video.sources.codec import VideoCodec
from cutset.video.sources.faults import Faults
from cutset.video.sources.placement import Placement

__all__ = ["LARGEST", "Picture", "Source", "check_size"]

LARGEST = 16384  # rows or columns


@dataclass(frozen=True, slots=True)
class Picture:
    """`pixels`: uint8 (1, 3, height, width), red, green, blue, C-contiguous, not to be written to.

    `time`: seconds in the video, or since the first picture of what is live or made up.
    `packets`: of an encoded source, what a PacketDecoder needs after the picture before to give these pixels, to the
    bit; an empty one ends a group of pictures, and there may be none at all. None: the source isn't encoded.
    `opens`: a group begins here, so a decoder must begin anew, and a new one can begin.
    `skipped`: how many pictures that a live source dropped or a container hides come out of a decoder before this one.
    `captured`: of what is live, when it came, on the clock of `time.monotonic()`.
    `placement`: where the source's own picture lies in this one, where it was scaled; `original`: that picture's
    pixels, where they are there.
    """

    index: int
    pixels: NDArray[np.uint8]
    time: float
    packets: tuple[bytes, ...] | None = None
    opens: bool = False
    skipped: int = 0
    captured: float | None = None
    placement: Placement | None = None
    original: NDArray[np.uint8] | None = None


class Source(ABC):
    """Pictures of one size. A context manager; iterating a second time goes on, it doesn't begin again."""

    name: str  # for messages; without secrets
    size: tuple[int, int]  # rows and columns
    rate: float | None  # pictures a second, where that is known
    codec: VideoCodec | None = None  # with it, pictures carry packets
    live: bool = False  # pictures come when they come, and who is late misses some

    @abstractmethod
    def __iter__(self) -> Iterator[Picture]:
        """The pictures, in order. Raises SourceError for what can't be read."""

    @cached_property
    def faults(self) -> Faults:
        """What went wrong so far and didn't end it."""
        return Faults()

    def cancel(self) -> None:  # noqa: B027
        """Another thread that waits in `__iter__` for a lost source is to end soon."""

    def close(self) -> None:  # noqa: B027
        """Frees what is open. A second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_size(name: str, size: tuple[int, int]) -> None:
    """Raises SourceError for a size that no picture here has."""
    if not all(0 < side <= LARGEST for side in size):
        raise SourceError(f"{name}: pictures have 1 to {LARGEST:,} rows and columns, not {size[0]}x{size[1]}")
