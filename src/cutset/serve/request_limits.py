"""What one client may take from the others: bytes, places in the queue, seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from cutset.serve.api_errors import ApiError

__all__ = ["BACKGROUND", "CLOSE", "Admission", "RequestLimits", "read_body"]

BACKGROUND = "cutset.background"  # in a scope: nobody waits for the answer, so all other requests go first

DRAIN_BYTES, DRAIN_SECONDS = 256 << 20, 5.0  # read and dropped of a body that is too large


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """`queue`: samples that may wait beside those that run. Seconds: of a whole request, of reading its body, of a
    client that reads nothing of its answer, and of what runs when the server is stopped. `waiting`: connections of one
    address that have sent no whole request. `unread_bytes`: of memory, for what a stream's client hasn't read."""

    body_bytes: int = 4 << 20
    queue: int = 256
    request_s: float = 600.0
    body_s: float = 30.0
    write_s: float = 30.0
    grace_s: float = 30.0
    connections: int = 1000
    waiting: int = 128
    unread_bytes: int = 4 << 20


class Admission:
    """Counts samples from the moment they are admitted until they have ended."""

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0

    @contextmanager
    def admit(self, samples: int, *, background: bool = False) -> Iterator[None]:
        """Room for so many samples. Raises ApiError 429 if there isn't. Those in the background take nobody's room: who
        hands them in hands in few at a time."""
        if samples > self.most:
            raise ApiError(400, f"the request has {samples} samples; this server takes at most {self.most} at once")
        if background:
            yield
            return
        if self.taken + samples > self.most:
            raise ApiError(
                429,
                f"the server is busy: {self.taken} samples run or wait and {self.most} may; try again soon",
                kind="rate_limit_error",
                code="rate_limit_exceeded",
                headers={"retry-after": "1"},
            )
        self.taken += samples
        try:
            yield
        finally:
            self.taken -= samples


async def read_body(scope: Scope, receive: Receive, send: Send, limits: RequestLimits) -> bytes | None:
    """The body of a JSON request; None if the client left, or was answered that the body is too large.

    Raises ApiError for another content type, or a body that doesn't come in time.
    """
    headers = dict(scope["headers"])
    # Browsers let any page send other types here, without asking this server.
    if headers.get(b"content-type", b"").split(b";")[0].strip().lower() != b"application/json":
        raise ApiError(415, "send the request as JSON, with the header `Content-Type: application/json`")
    parts, size = list[bytes](), 0
    try:
        async with asyncio.timeout(limits.body_s):
            if int(headers.get(b"content-length", b"0")) > limits.body_bytes:
                await _refuse(scope, receive, send, limits)
                return None
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limits.body_bytes:
                    await _refuse(scope, receive, send, limits)
                    return None
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError:
        raise ApiError(408, f"the request's body didn't come within {limits.body_s:g} s", headers=CLOSE) from None


CLOSE = {"connection": "close", "x-should-retry": "false"}


async def _refuse(scope: Scope, receive: Receive, send: Send, limits: RequestLimits) -> None:
    """Answers, then reads on for a while: a connection that is closed while its client still sends loses the answer."""
    error = ApiError(413, f"the request's body is larger than {limits.body_bytes} bytes, the most that is read")
    body = error.body(scope["path"])
    headers = CLOSE | {"content-type": "application/json", "content-length": str(len(body))}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    dropped, more = 0, True
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while more and dropped < DRAIN_BYTES:
                message = await receive()
                more = bool(message.get("more_body"))
                dropped += len(message.get("body", b""))
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b""})
