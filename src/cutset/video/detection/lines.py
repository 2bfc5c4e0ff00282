"""JSON lines in a file: each is there as soon as it was written, whatever becomes of the process."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cutset.errors import ConfigError
from cutset.video.detection.boxes import Detections
from cutset.video.result import Result

__all__ = ["LineFile", "detection_line", "detection_records"]


class LineFile:
    """Appends lines to a file, each by one write to the system. What is in the file stays; where its last line has no
    end, as after a power cut, it gets one. A pipe or terminal is written to as it is. Raises ConfigError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ConfigError(f"{str(path)!r} can't be written: {error.strerror}") from None
        self._torn = self._has_no_end()

    def write(self, record: dict[str, Any]) -> None:
        """Adds a line. Raises ConfigError where the disk is full, BrokenPipeError where nobody reads any more."""
        data = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(", ", ": ")).encode() + b"\n"
        if self._torn:
            data, self._torn = b"\n" + data, False
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise ConfigError(f"{str(self._path)!r} can't be written: {error.strerror}") from None

    def close(self) -> None:
        """A second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _has_no_end(self) -> bool:
        try:
            with self._path.open("rb") as file:
                if not self._path.is_file() or file.seek(0, os.SEEK_END) == 0:
                    return False
                file.seek(-1, os.SEEK_END)
                return file.read(1) != b"\n"
        except OSError:  # no file that one can read in
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def detection_line(camera: str, result: Result, found: Detections, clock: float) -> dict[str, Any]:
    """A picture's line; `clock` are the seconds to add to `time.monotonic()` for those since 1970.

    Boxes are [left, top, right, bottom] in pixels of the source's own picture, of which `size` are columns and rows.
    A picture that was dropped has the reason, and no `detections`: nobody knows what was in it.
    """
    rows, columns = result.placement.native
    line: dict[str, Any] = {
        "camera": camera,
        "picture": result.picture,
        "captured": round(result.captured + clock, 3),
        "time": _number(result.time),
        "latency": round(result.age, 4),
        "size": [columns, rows],
    }
    if result.dropped:
        return line | {"dropped": result.dropped}
    return line | {"detections": detection_records(found)}


def detection_records(found: Detections) -> list[dict[str, Any]]:
    """Each detection as an object, the best first."""
    records = []
    for i in range(len(found)):
        record: dict[str, Any] = {
            "label": found.label(i),
            "score": round(float(found.scores[i]), 4),
            "box": [round(float(side), 2) for side in found.boxes[i]],
        }
        if found.polygons is not None:
            record["polygon"] = [[round(float(value), 2) for value in corner] for corner in found.polygons[i]]
        records.append(record)
    return records


def _number(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
