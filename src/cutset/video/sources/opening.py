"""A source from the text that a user writes, limited in number and rate."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cutset.errors import SourceError
from cutset.video.sources.faults import Tolerance, quiet
from cutset.video.sources.file import FileSource, head_of, is_animated
from cutset.video.sources.folder import ENDINGS, FolderSource, open_picture
from cutset.video.sources.generated import GeneratedSource
from cutset.video.sources.live import open_camera, open_rtsp
from cutset.video.sources.picture import Picture, Source, check_size

__all__ = ["Metered", "open_source"]

HELP = "a video file, a picture, a folder of pictures, camera:0 or /dev/video0, rtsp://…, generated:480x720"


def open_source(
    text: str,
    *,
    limit: int | None = None,
    size: tuple[int, int] | None = None,
    rate: float | None = None,
    tolerance: Tolerance | None = None,
    tell: Callable[[str], None] = quiet,
) -> Source:
    """A video file, a picture, a folder, `camera:0` or `/dev/video0`, `rtsp://…`, or `generated:480x720,seed=1,…`.

    `limit`: at most so many pictures. `size`: rows and columns that pictures are scaled to, whatever theirs are.
    `rate`: pictures a second, at most. `tolerance`: of packets that can't be decoded, and of cameras that are lost;
    `tell` hears of these. Raises SourceError, or DeviceError without PyAV; reading raises SourceLost for a camera that
    didn't come back.
    """
    if size is not None:
        check_size(text, size)
    source = _open(text, size, rate, tolerance or Tolerance(), tell)
    try:
        return source if limit is None and rate is None else Metered(source, limit=limit, rate=rate)
    except SourceError:
        source.close()
        raise


def _open(
    text: str, size: tuple[int, int] | None, rate: float | None, tolerance: Tolerance, tell: Callable[[str], None]
) -> Source:
    if re.match(r"generated(:|$)", text):
        return GeneratedSource.parse(text, size)
    if found := re.fullmatch(r"camera:([0-9]{1,3})|(/dev/video[0-9]+)", text):
        return open_camera(found[2] or f"/dev/video{found[1]}", size, rate, tolerance=tolerance, tell=tell)
    if re.match(r"rtsps?://", text):
        return open_rtsp(text, size, tolerance=tolerance, tell=tell)
    if (found := re.match(r"[a-z][a-z0-9+.-]*:(//)?", text)) and not Path(text).exists():
        raise SourceError(f"no source begins with {found[0]!r}; one is {HELP}")
    if not text:
        raise SourceError(f"a source needs a name: {HELP}")
    path = Path(text)
    if path.is_dir():
        return FolderSource(path, size=size, tell=tell)
    if not path.exists():
        raise SourceError(f"there is no file or folder {text!r}; a source is {HELP}")
    if path.suffix.lower() in ENDINGS and path.is_file() and not is_animated(head_of(path)):
        return open_picture(path, size)
    container = "apng" if path.suffix.lower() in (".png", ".apng") else None  # which FFmpeg would take for a list
    return FileSource(path, size=size, container=container, tolerance=tolerance, tell=tell)


class Metered(Source):
    """A source's first `limit` pictures, each no earlier than `rate` pictures a second allow. Raises SourceError.

    Who takes one late gets the next ones at once, until it has caught up.
    """

    def __init__(
        self,
        source: Source,
        *,
        limit: int | None = None,
        rate: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if limit is not None and limit < 1:
            raise SourceError(f"{source.name}: a limit must be at least 1 picture, not {limit}")
        if rate is not None and not 0 < rate < math.inf:
            raise SourceError(f"{source.name}: a rate must be more than 0 pictures a second, not {rate:g}")
        self.name, self.size, self.codec, self.live = source.name, source.size, source.codec, source.live
        self.rate, self.faults = rate or source.rate, source.faults
        self._source, self._limit, self._pace = source, limit, rate
        self._clock, self._sleep = clock, sleep
        self._given, self._start = 0, 0.0

    def __iter__(self) -> Iterator[Picture]:
        if self._limit is not None and self._given >= self._limit:
            return
        for picture in self._source:
            now = self._clock()
            if not self._given:
                self._start = now
            if self._pace and (early := self._start + self._given / self._pace - now) > 0:
                self._sleep(early)
            self._given += 1
            yield picture
            if self._limit is not None and self._given >= self._limit:
                return

    def cancel(self) -> None:
        self._source.cancel()

    def close(self) -> None:
        self._source.close()
