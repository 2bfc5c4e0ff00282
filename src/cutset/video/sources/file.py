"""Video files, and what a file is by its first bytes: how it is read, and the name of what isn't read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cutset.errors import SourceError
from cutset.video.sources.container import ContainerSource
from cutset.video.sources.faults import Tolerance, quiet

__all__ = ["LOCAL", "FileSource", "head_of", "is_animated"]

# A file can't make FFmpeg open another one, or an address.
LOCAL = {"protocol_whitelist": "file"}
# Containers of one video; lists that name other files (HLS, concat and their like) are not among them.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,ogg,flv,asf,h264,hevc,ivf,obu,mjpeg,gif,apng,"
    "yuv4mpegpipe"
)

HEAD = 4096  # bytes
READ = (
    "read are MP4, MOV, Matroska, WebM, AVI, MPEG, OGG, FLV, WMV, GIF, APNG, IVF and Y4M files, raw H.264, HEVC, AV1 "
    "and MJPEG, and PNG, JPEG, BMP and WebP pictures"
)
# What files begin with that aren't read.
NAMES = {
    b"#EXTM3U": "an HLS playlist, which names other files; give the video itself",
    b"ffconcat": "a list of other files; give a video itself",
    b"[playlist]": "a playlist, which names other files; give a video itself",
    b"<?xml": "text (XML; a DASH manifest or a playlist names other files: give the video itself)",
    b"<MPD": "a DASH manifest, which names other files; give the video itself",
    b"<smil": "a playlist, which names other files; give a video itself",
    b"v=0": "a session description (SDP); give the stream's address, rtsp://…",
    b".RMF": "a RealMedia file",
    b"\x06\x0e\x2b\x34": "an MXF file",
    b"FWS": "a Flash program",
    b"CWS": "a Flash program",
    b"II*\0": "a TIFF or raw picture",
    b"MM\0*": "a TIFF or raw picture",
    b"II+\0": "a TIFF picture",
    b"8BPS": "a Photoshop picture",
    b"\xff\x0a": "a JPEG XL picture",
    b"\0\0\0\x0cJXL ": "a JPEG XL picture",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 picture",
    b"v/1\x01": "an OpenEXR picture",
    b"qoif": "a QOI picture",
    b"P5": "a portable anymap (PNM)",
    b"P6": "a portable anymap (PNM)",
    b"fLaC": "sound",
    b"ID3": "sound",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "packed with gzip",
    b"%PDF": "a PDF document",
    b"\x93NUMPY": "a NumPy array",
}
BRANDS = {
    b"avif": "an AVIF picture",
    b"avis": "an AVIF picture",
    b"heic": "an HEIF picture",
    b"mif1": "an HEIF picture",
}


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
        what = _what_it_is(head_of(file))
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


def head_of(file: Path) -> bytes:
    """The first bytes of a file. Raises SourceError where it can't be read, or is empty."""
    try:
        with file.open("rb") as stream:
            head = stream.read(HEAD)
    except OSError as error:
        raise SourceError(f"can't open {file}: {(error.strerror or 'unknown').lower()}") from None
    if not head:
        raise SourceError(f"can't open {file}: it is empty")
    return head


def is_animated(head: bytes) -> bool:
    """Whether a PNG has several pictures."""
    return head.startswith(b"\x89PNG") and b"acTL" in head[: head.find(b"IDAT") if b"IDAT" in head else HEAD]


def _what_it_is(head: bytes) -> str:
    """The name of what isn't read; empty where that isn't known."""
    if head[:4] == b"RIFF" and head[8:12] in (b"WAVE", b"WEBP"):
        if head[8:12] == b"WAVE":
            return "sound"
        return "an animated WebP picture" if head[12:16] == b"VP8X" and head[20] & 2 else ""
    if head[4:8] == b"ftyp" and head[8:12] in BRANDS:
        return BRANDS[head[8:12]]
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return next((name for start, name in NAMES.items() if head.startswith(start) or text.startswith(start)), "")
