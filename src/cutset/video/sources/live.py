"""Cameras and RTSP: pictures that don't wait. Who is late gets the newest ones."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from cutset.errors import CutsetError, SourceError
from cutset.video.sources.container import ContainerSource
from cutset.video.sources.faults import Tolerance, quiet
from cutset.video.sources.picture import Picture, Source
from cutset.video.sources.reconnect import ReconnectingSource

__all__ = ["LiveSource", "open_camera", "open_rtsp", "without_secrets"]

KEPT = 2  # pictures that wait for whoever is late
MAX_BYTES = 64 << 20  # of packets of pictures that were dropped
OPEN = 10.0  # seconds
PATIENCE = 1.0  # seconds


class LiveSource(Source):
    """Reads another source in a thread, and drops the oldest pictures when nobody takes them.

    Indices count dropped pictures, so they have gaps. What was dropped of an encoded source leaves its packets.
    """

    live = True

    def __init__(self, source: Source, kept: int = KEPT) -> None:
        self.name, self.size, self.rate, self.codec = source.name, source.size, source.rate, source.codec
        self._source, self.faults = source, source.faults
        self._kept = kept
        self._waiting: deque[Picture] = deque()
        self._changed = threading.Condition()
        self._error: Exception | None = None
        self._done = self._closed = False
        self._thread = threading.Thread(target=self._read, name="cutset-live-source", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Picture]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._done)
                if not self._waiting:
                    if self._error is not None and not self._closed:
                        raise self._error
                    return
                picture = self._waiting.popleft()
            yield picture

    def close(self) -> None:
        with self._changed:
            self._closed = True
        self._source.cancel()
        self._thread.join(PATIENCE)  # it may wait for a camera that gives nothing; then it ends later, by itself

    def _read(self) -> None:
        lost = False  # packets were let go: nothing can be decoded until a group opens
        try:
            for read in self._source:
                picture = replace(read, captured=time.monotonic())
                with self._changed:
                    if self._closed:
                        break
                    lost = lost and not picture.opens
                    if not lost:
                        self._waiting.append(picture)
                        lost = not self._drop()
                    self._changed.notify_all()
        except CutsetError as error:
            self._error = error
        finally:
            self._source.close()
            with self._changed:
                self._done = True
                self._changed.notify_all()

    def _drop(self) -> bool:
        """Makes room; False when the packets of what was dropped are too many to keep."""
        while len(self._waiting) > self._kept:
            oldest, after = self._waiting.popleft(), self._waiting.popleft()
            if not after.opens and oldest.packets is not None and after.packets is not None:
                packets = oldest.packets + after.packets
                if sum(map(len, packets)) > MAX_BYTES:
                    self._waiting.clear()
                    return False
                skipped = oldest.skipped + 1 + after.skipped
                after = replace(after, packets=packets, opens=oldest.opens, skipped=skipped)
            self._waiting.appendleft(after)
        return True


def open_camera(
    device: str,
    size: tuple[int, int] | None,
    rate: float | None,
    *,
    tolerance: Tolerance | None = None,
    tell: Callable[[str], None] = quiet,
) -> LiveSource:
    """A camera of this machine by its file. Size and rate are asked of it; it may have others. Raises SourceError."""
    limits = tolerance or Tolerance()

    def opens(before: ContainerSource | None) -> ContainerSource:
        if not Path(device).exists():
            found = ", ".join(sorted(map(str, Path("/dev").glob("video*")))) or "none"
            raise SourceError(f"there is no camera {device}; found: {found}")
        options = {"video_size": f"{size[1]}x{size[0]}"} if size else {}
        if rate:
            options["framerate"] = f"{rate:g}"
        return ContainerSource(
            device,
            device,
            size=size,
            container="v4l2",
            options=options,
            timeout=(limits.timeout, limits.timeout),
            tolerance=limits,
            before=before,
            tell=tell,
        )

    return LiveSource(ReconnectingSource(opens, limits, tell))


def open_rtsp(
    url: str,
    size: tuple[int, int] | None,
    options: Mapping[str, str] | None = None,
    timeout: float = OPEN,
    *,
    tolerance: Tolerance | None = None,
    tell: Callable[[str], None] = quiet,
) -> LiveSource:
    """An RTSP stream, over TCP so that no packet is lost. `timeout`: seconds to answer, and between two packets.

    With a `tolerance`, whose timeout it is then, a stream that is lost is dialled again; without, it ends.
    """
    usual = {"rtsp_transport": "tcp", "protocol_whitelist": "rtsp,rtsps,rtp,tcp,tls,udp"}
    seconds = tolerance.timeout if tolerance is not None else timeout

    def opens(before: ContainerSource | None) -> ContainerSource:
        return ContainerSource(
            url,
            without_secrets(url),
            size=size,
            container="rtsp",
            options=usual | dict(options or {}),
            timeout=(seconds, seconds),
            tolerance=tolerance,
            before=before,
            tell=tell,
        )

    return LiveSource(opens(None) if tolerance is None else ReconnectingSource(opens, tolerance, tell))


def without_secrets(url: str) -> str:
    """An address without user and password, and without what follows a question mark."""
    return re.sub(r"//[^/]*@", "//", url).partition("?")[0]
