"""Events from whoever publishes to every browser that watches."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Iterator

from starlette.types import Receive, Scope, Send

from cutset.serve.api_errors import ApiError
from cutset.serve.events import Event, encode_event
from cutset.serve.replies import until_gone

__all__ = ["Hub", "Watchers"]

MOST_WATCHERS = 32
MOST_KEPT = 200  # events that a slow watcher is behind
MOST_BYTES = 4 << 20  # of them; a single larger one is kept
PING_S = 15.0


class _Watcher:
    """What one browser has not been sent yet. Any thread may call `put`."""

    def __init__(self, first: list[bytes], ended: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: deque[bytes] = deque(first)
        self._lock = threading.Lock()
        self._came = asyncio.Event()
        self._came.set()
        self.ended = ended

    def put(self, data: bytes) -> None:
        with self._lock:
            self._events.append(data)
            size = sum(map(len, self._events)) if len(self._events) > 1 else 0
            while len(self._events) > MOST_KEPT or (size > MOST_BYTES and len(self._events) > 1):
                size -= len(self._events.popleft())
        self.wake()

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # its loop has closed
            self._loop.call_soon_threadsafe(self._came.set)

    async def take(self) -> bytes:
        """What has come; a comment, which browsers drop, if nothing has for a while."""
        try:
            async with asyncio.timeout(PING_S):
                await self._came.wait()
        except TimeoutError:
            return b": still here\n\n"
        self._came.clear()
        with self._lock:
            parts = list(self._events)
            self._events.clear()
        return b"".join(parts)


class Hub:
    """Takes events from any thread. It keeps the last one of each type for those who come later."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[str, bytes] = {}
        self._watchers: set[_Watcher] = set()
        self._ended = False

    @property
    def watched(self) -> bool:
        """Somebody is looking; what is costly to make need not be made otherwise."""
        return bool(self._watchers)

    def publish(self, event: Event) -> None:
        """Never blocks; a watcher that is far behind loses the oldest events."""
        data = encode_event(event)
        with self._lock:
            self._last[str(type(event).__struct_config__.tag)] = data
            for watcher in self._watchers:
                watcher.put(data)

    def close(self) -> None:
        """Ends what watchers read."""
        with self._lock:
            self._ended = True
            for watcher in self._watchers:
                watcher.ended = True
                watcher.wake()

    @contextlib.contextmanager
    def watching(self) -> Iterator[_Watcher]:
        """A place among the watchers. Raises ApiError 429 if all are taken."""
        with self._lock:
            if len(self._watchers) >= MOST_WATCHERS:
                raise ApiError(429, f"{MOST_WATCHERS} browsers watch already", kind="rate_limit_error")
            watcher = _Watcher(list(self._last.values()), self._ended)
            self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            with self._lock:
                self._watchers.discard(watcher)


class Watchers:
    """`GET /events`: an ASGI application that sends a hub's events until the browser leaves or the hub is closed."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.hub.watching() as watcher:
            gone = asyncio.create_task(_end_once_gone(receive, watcher))
            try:
                headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                while not watcher.ended:
                    await send({"type": "http.response.body", "body": await watcher.take(), "more_body": True})
                await send({"type": "http.response.body", "body": b""})
            finally:
                gone.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await gone


async def _end_once_gone(receive: Receive, watcher: _Watcher) -> None:
    await until_gone(receive)
    watcher.ended = True
    watcher.wake()
