"""A folder of pictures, in the order of their names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from cutset.errors import SourceError
from cutset.stream.sources.container import ContainerSource
from cutset.stream.sources.file import LOCAL
from cutset.stream.sources.packets import size_text
from cutset.stream.sources.picture import Picture, Source

__all__ = ["ENDINGS", "FolderSource", "open_picture"]

# How names end, and FFmpeg's reader for that: what is inside decides nothing.
ENDINGS = {".png": "png_pipe", ".jpg": "jpeg_pipe", ".jpeg": "jpeg_pipe", ".bmp": "bmp_pipe", ".webp": "webp_pipe"}
RATE = 25.0  # pictures a second, for their times


class FolderSource(Source):
    """PNG, JPEG, BMP and WebP files; numbers in names count as numbers, so `9.png` is before `10.png`.

    Raises SourceError for a folder without pictures, one that can't be read, and one of another size than the first.
    """

    rate = None

    def __init__(self, folder: Path, *, size: tuple[int, int] | None = None) -> None:
        self.name = str(folder)
        try:
            self._files = sorted((f for f in folder.iterdir() if f.suffix.lower() in ENDINGS), key=_order)
        except OSError as error:
            raise SourceError(f"can't read {folder}: {(error.strerror or 'unknown').lower()}") from None
        if not self._files:
            raise SourceError(f"{folder} has no pictures: none of its files ends in {', '.join(ENDINGS)}")
        self._scale = size
        self._next = 0
        self._coded, self.size = _first(self._files[0], size)

    def __iter__(self) -> Iterator[Picture]:
        while self._next < len(self._files):
            index, file = self._next, self._files[self._next]
            self._next += 1
            with open_picture(file, self._scale) as source:
                if source.coded != self._coded:
                    raise SourceError(
                        f"{file}, picture {index}: {size_text(source.coded)} after ones of {size_text(self._coded)}"
                    )
                for picture in source:
                    yield Picture(index, picture.pixels, index / RATE)
                    break


def open_picture(file: Path, size: tuple[int, int] | None = None) -> ContainerSource:
    """A source of one picture, a file whose name ends in one of ENDINGS. Raises SourceError."""
    container = ENDINGS.get(file.suffix.lower())
    if container is None:
        raise SourceError(f"{file} ends in none of {', '.join(ENDINGS)}")
    return ContainerSource(f"file:{file}", str(file), size=size, container=container, options=LOCAL)


def _first(file: Path, size: tuple[int, int] | None) -> tuple[tuple[int, int], tuple[int, int]]:
    with open_picture(file, size) as source:
        return source.coded, source.size


def _order(file: Path) -> list[tuple[int, str]]:
    parts = re.split(r"([0-9]+)", file.name)
    return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)]
