"""A folder of pictures, in the order of their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from cutset.errors import SourceError
from cutset.video.sources.faults import Tolerance, no_log
from cutset.video.sources.file import FileSource
from cutset.video.sources.packets import size_text
from cutset.video.sources.picture import Picture, Source

__all__ = ["ENDINGS", "FolderSource", "open_picture"]

# How names end, and FFmpeg's reader for that: what is inside decides nothing.
ENDINGS = {".png": "png_pipe", ".jpg": "jpeg_pipe", ".jpeg": "jpeg_pipe", ".bmp": "bmp_pipe", ".webp": "webp_pipe"}
# Pictures of other kinds, which are reported.
OTHERS = {".tif", ".tiff", ".gif", ".apng", ".avif", ".heic", ".heif", ".jxl", ".jp2", ".ppm", ".pgm", ".exr", ".dng"}
RATE = 25.0  # pictures a second, for their times
STRICT = Tolerance(bad_packets=0)  # a picture is one packet


class FolderSource(Source):
    """PNG, JPEG, BMP and WebP files; numbers in names count as numbers, so `9.png` is before `10.png`.

    Each is turned as its EXIF says, and scaled where a size is given. Raises SourceError for a folder without pictures,
    one that can't be read, and, without a size, one of another size than the first. `log` hears of other pictures that
    are left out.
    """

    rate = None

    def __init__(
        self, folder: Path, *, size: tuple[int, int] | None = None, log: Callable[[str], None] = no_log
    ) -> None:
        self.name = str(folder)
        try:
            files = sorted(folder.iterdir(), key=_order)
        except OSError as error:
            raise SourceError(f"can't read {folder}: {(error.strerror or 'unknown').lower()}") from None
        self._files = [file for file in files if file.suffix.lower() in ENDINGS]
        if not self._files:
            raise SourceError(f"{folder} has no pictures: none of its files ends in {', '.join(ENDINGS)}")
        others = [file for file in files if file.suffix.lower() in OTHERS]
        if others:
            kinds = ", ".join(sorted({file.suffix.lower() for file in others}))
            log(f"{folder}: left out are {len(others)} pictures that end in {kinds}; read are {', '.join(ENDINGS)}")
        self._scale = size
        self._next = 0
        with open_picture(self._files[0], size) as source:
            self.size = source.size

    def __iter__(self) -> Iterator[Picture]:
        while self._next < len(self._files):
            index, file = self._next, self._files[self._next]
            self._next += 1
            with open_picture(file, self._scale) as source:
                if source.size != self.size:
                    raise SourceError(
                        f"{file}, picture {index}: {size_text(source.size)} after ones of {size_text(self.size)}; "
                        "give a size to scale all of them to"
                    )
                for picture in source:
                    yield Picture(index, picture.pixels, index / RATE, placement=picture.placement)
                    break


def open_picture(file: Path, size: tuple[int, int] | None = None) -> FileSource:
    """A source of one picture, a file whose name ends in one of ENDINGS. Raises SourceError."""
    container = ENDINGS.get(file.suffix.lower())
    if container is None:
        raise SourceError(f"{file} ends in none of {', '.join(ENDINGS)}")
    return FileSource(file, size=size, container=container, tolerance=STRICT)


def _order(file: Path) -> list[tuple[int, str]]:
    parts = re.split(r"([0-9]+)", file.name)
    return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)]
