"""Pictures with what was found in them: a video, or a file for each."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cutset.errors import ConfigError, DeviceError
from cutset.files import check_writable
from cutset.video.detection.box_drawing import pillow
from cutset.video.sources.libav import libav, reason

__all__ = ["VIDEO_ENDINGS", "AnnotatedFolder", "AnnotatedVideo", "safe_name"]

VIDEO_ENDINGS = (".mp4", ".mkv", ".mov")
TICKS = 90_000  # a second
QUALITY = 90  # of JPEG
Rgb = NDArray[np.uint8]


class AnnotatedVideo:
    """Writes pictures (rows, columns, 3) as H.264, each shown from its own time on. What was written before a process
    died can be played: MP4 is written in fragments of a second. Raises ConfigError, or DeviceError without an encoder.
    """

    def __init__(self, path: Path, rate: float | None = None) -> None:
        """`rate`: pictures a second, where that is known; for how long the last one is shown."""
        av = libav()
        check_writable(path)
        self._rate = rate if rate and 0 < rate < 1000 else 25.0
        options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"} if path.suffix.lower() != ".mkv" else {}
        try:
            self._container: Any = av.open(str(path), "w", options=options)
            self._stream: Any = self._container.add_stream("libx264", rate=Fraction(self._rate).limit_denominator(1000))
        except (av.FFmpegError, ValueError, OSError) as error:
            raise DeviceError(f"{path} can't be written as H.264: {reason(error)}") from None
        self._path = path
        self._size: tuple[int, int] | None = None
        self._begin, self._last = 0.0, -1

    def add(self, number: int, time: float, picture: Rgb) -> None:
        """A picture at `time`, seconds. Raises ConfigError for one of another size, and for what can't be written."""
        av = libav()
        if self._size is None:
            self._begin_stream(picture.shape[:2], time)
        if picture.shape[:2] != self._size:
            raise ConfigError(
                f"{self._path}: picture {number} has {picture.shape[0]}x{picture.shape[1]} pixels and those before it "
                f"{self._size}: give a directory, not a video"
            )
        rows, columns = picture.shape[:2]
        even = np.pad(picture, ((0, rows % 2), (0, columns % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24").reformat(format="yuv420p")
        self._last = max(self._last + 1, round((time - self._begin) * TICKS))
        frame.pts, frame.time_base = self._last, Fraction(1, TICKS)
        self._write(frame)

    def close(self) -> None:
        """Ends the file. A second call does nothing."""
        container, self._container = self._container, None
        if container is None:
            return
        try:
            if self._size is not None:
                for packet in self._stream.encode(None):
                    container.mux(packet)
        finally:
            container.close()

    def _begin_stream(self, size: tuple[int, ...], time: float) -> None:
        self._size, self._begin = (size[0], size[1]), time
        stream = self._stream
        stream.height, stream.width = size[0] + size[0] % 2, size[1] + size[1] % 2
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS)
        stream.codec_context.gop_size = max(1, round(self._rate))
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "veryfast", "crf": "20", "bf": "0"}

    def _write(self, frame: Any) -> None:
        av = libav()
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except (av.FFmpegError, ValueError, OSError) as error:
            raise ConfigError(f"{self._path} can't be written: {reason(error)}") from None


class AnnotatedFolder:
    """Writes pictures (rows, columns, 3) into a directory, as CAMERA-000012.png or .jpg. Raises ConfigError."""

    def __init__(self, folder: Path, camera: str, ending: str = ".jpg") -> None:
        self._folder, self._camera, self._ending = folder, safe_name(camera), ending
        self._images = pillow().Image
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"no files can be written in {str(folder)!r}: {error.strerror}") from None

    def add(self, number: int, time: float, picture: Rgb) -> None:
        """A picture by its number."""
        path = self._folder / f"{self._camera}-{number:06}{self._ending}"
        try:
            self._images.fromarray(picture).save(path, quality=QUALITY)
        except OSError as error:
            raise ConfigError(f"{str(path)!r} can't be written: {error.strerror or error}") from None

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def safe_name(camera: str) -> str:
    """A camera's name as a part of a file's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", camera).strip("-.")[-60:] or "camera"
