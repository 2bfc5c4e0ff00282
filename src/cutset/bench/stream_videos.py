"""The pictures of `cutset bench stream`: the videos of a folder at their own size, made-up ones where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cutset.video.sources import Picture, Source, VideoCodec, open_source
from cutset.video.sources.packets import size_text

__all__ = ["Video", "find_videos", "generated"]

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Video:
    """`name` is for the rows, `text` what `open_source` takes; `size` is rows and columns, to which pictures are
    `scaled` if it isn't their own: such pictures aren't forwarded as packets."""

    name: str
    text: str
    size: tuple[int, int]
    scaled: bool = False

    def of_size(self, size: tuple[int, int]) -> Video:
        """The same with pictures of this size."""
        return replace(self, name=f"{self.name.rpartition(' ')[0]} {size_text(size)}", size=size, scaled=True)

    @contextmanager
    def open(self, limit: int | None = None, size: tuple[int, int] | None = None) -> Iterator[Source]:
        """The source, from its first picture; `size`: rows and columns that pictures are scaled to."""
        size = size or (self.size if self.scaled else None)
        with open_source(self.text, limit=limit, size=size) as source:
            yield source

    def pictures(self, count: int, start: int = 0) -> list[Picture]:
        """`count` consecutive pictures; fewer where the video ends."""
        with self.open() as source:
            return list(islice(source, start, start + count))

    def from_group(self, start: int, count: int) -> tuple[list[Picture], VideoCodec | None]:
        """`count` pictures from the first one at or after `start` at which a decoder can begin; what they are encoded
        with, if they are. From the beginning where the video is too short."""
        with self.open() as source:
            found: list[Picture] = []
            for picture in source:
                if found or (picture.index >= start and (picture.opens or picture.packets is None)):
                    found.append(picture)
                if len(found) == count:
                    return found, source.codec
            codec = source.codec
        return self.pictures(count), codec

    def places(self, starts: Sequence[int], count: int) -> list[list[Pixels]]:
        """`count` consecutive pictures from each of some places, rising; those beyond the video's end are left out."""
        wanted: dict[int, list[Pixels]] = {start: [] for start in starts}
        with self.open(limit=max(starts) + count) as source:
            for index, picture in enumerate(source):
                for start, found in wanted.items():
                    if start <= index < start + count:
                        found.append(np.array(picture.pixels))
        return [found for found in wanted.values() if len(found) > 1]


def find_videos(folder: Path, size: tuple[int, int] | None = None) -> list[Video]:
    """Every .mp4 in a folder, at its own size; one that is made up where there is none, or with a `size`."""
    files = [] if size else sorted(folder.glob("*.mp4"))
    found = []
    for file in files:
        with open_source(str(file)) as source:
            found.append(Video(f"{file.stem} {size_text(source.size)}", str(file), source.size))
    return found or [generated(size or (432, 768))]


def generated(size: tuple[int, int]) -> Video:
    """Shapes before a background of which a fifth of the pixels flickers, as in the videos of a fixed camera."""
    return Video(f"generated {size_text(size)}", f"generated:{size_text(size)},seed=1,noise=0.19", size)
