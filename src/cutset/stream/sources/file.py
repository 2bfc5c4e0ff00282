"""Video files."""

from __future__ import annotations

from pathlib import Path

from cutset.errors import SourceError
from cutset.stream.sources.container import ContainerSource

__all__ = ["LOCAL", "FileSource"]

# A file can't make FFmpeg open another one, or an address.
LOCAL = {"protocol_whitelist": "file"}
# Containers of one video; lists that name other files (HLS, concat and their like) are not among them.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv,h264,hevc,ivf,obu,mjpeg,gif,yuv4mpegpipe"


class FileSource(ContainerSource):
    """A video file that FFmpeg reads. Raises SourceError."""

    def __init__(self, file: Path, *, size: tuple[int, int] | None = None) -> None:
        if not file.is_file():
            raise SourceError(f"there is no file {file}")
        super().__init__(f"file:{file}", str(file), size=size, options=LOCAL | {"format_whitelist": CONTAINERS})
