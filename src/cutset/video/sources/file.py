"""Video files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cutset.errors import SourceError
from cutset.video.sources.container import ContainerSource
from cutset.video.sources.faults import Tolerance, quiet
from cutset.video.sources.kinds import READ, head_of, what_it_is

__all__ = ["LOCAL", "FileSource"]

# A file can't make FFmpeg open another one, or an address.
LOCAL = {"protocol_whitelist": "file"}
# Containers of one video; lists that name other files (HLS, concat and their like) are not among them.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,ogg,flv,asf,h264,hevc,ivf,obu,mjpeg,gif,apng,"
    "yuv4mpegpipe"
)


class FileSource(ContainerSource):
    """A video file that FFmpeg reads. Raises SourceError, which names what isn't read."""

    def __init__(
        self,
        file: Path,
        *,
        size: tuple[int, int] | None = None,
        container: str | None = None,
        tolerance: Tolerance | None = None,
        tell: Callable[[str], None] = quiet,
    ) -> None:
        """`container`: FFmpeg's name of how to read it, for what doesn't decide that itself."""
        if not file.is_file():
            raise SourceError(f"there is no file {file}")
        what = what_it_is(head_of(file))
        try:
            super().__init__(
                f"file:{file}",
                str(file),
                size=size,
                container=container,
                options=LOCAL | ({"format_whitelist": CONTAINERS} if container is None else {}),
                tolerance=tolerance,
                tell=tell,
            )
        except SourceError as error:
            if what:
                raise SourceError(f"can't open {file}: it is {what}") from None
            if str(error).startswith("can't open") and container is None:
                raise SourceError(f"{error}; {READ}") from None
            raise
