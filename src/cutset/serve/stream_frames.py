"""Streams of answers in frames of one size, at a steady rhythm: who sees the packets doesn't see the tokens.

A frame leaves each period, whatever has come: what is missing is filled up with what clients skip. The first one leaves
a power of two of periods after the request came, and the end of the stream comes with a frame whose number is a power
of two: so of the time to the first token, and of the length of an answer, its power of two shows.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["FramedStreams", "StreamPadding", "filler", "first_tick"]

KINDS = {b"text/event-stream": b"sse", b"application/x-ndjson": b"lines"}
ENDS = {b"sse": b"\n\n", b"lines": b"\n"}  # of an event
BUFFERED = 2  # frames of text that wait; then whoever answers waits


@dataclass(frozen=True, slots=True)
class StreamPadding:
    """`size`: bytes of a frame; `period`: seconds from one to the next."""

    size: int = 4096
    period: float = 0.1


def filler(kind: bytes, count: int) -> bytes:
    """So many bytes that mean nothing behind a whole event, or a whole line of JSON."""
    if kind == b"lines":
        return b" " * count  # before the next line's object
    return b"\n" * count if count < 3 else b":" + b" " * (count - 3) + b"\n\n"


class FramedStreams:
    """Middleware for answers to POST requests that are streamed."""

    def __init__(self, app: ASGIApp, padding: StreamPadding) -> None:
        self.app, self.padding = app, padding

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        framed = _Framed(send, self.padding)
        try:
            await self.app(scope, receive, framed)
        finally:
            await framed.close()


class _Framed:
    """A `send` that frames the body of a stream, and hands on everything else."""

    def __init__(self, send: Send, padding: StreamPadding) -> None:
        self._send, self._padding = send, padding
        self._clock = asyncio.get_running_loop().time
        self._came = self._clock()
        self._kind = b""  # of a stream
        self._text = bytearray()  # whole events that wait
        self._tail: bytes | None = None  # the last event, when all have come: whoever reads it leaves
        self._sent = asyncio.Event()  # a frame was, or no more will be
        self._frames: asyncio.Task[None] | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = dict(message["headers"]).get(b"content-type", b"").partition(b";")[0]
            self._kind = KINDS.get(kind, b"")
            if self._kind:
                self._frames = asyncio.create_task(self._run(message))
                return
        if self._frames is None or message["type"] != "http.response.body":
            await self._send(message)
            return
        data = message.get("body", b"")
        if message.get("more_body"):
            self._text += data
        else:
            between = ENDS[self._kind]
            at = data.removesuffix(between).rfind(between)
            cut = 0 if at < 0 else at + len(between)
            self._text += data[:cut]
            self._tail = data[cut:]
        while not self._frames.done() and (self._tail is not None or len(self._text) > BUFFERED * self._padding.size):
            self._sent.clear()
            await self._sent.wait()
        if self._frames.done():
            await self._frames  # raises what sending raised

    async def close(self) -> None:
        """Ends the frames of a stream that was given up."""
        if self._frames is not None:
            self._frames.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._frames

    async def _run(self, start: Message) -> None:
        """Frames on a grid of times from the request's arrival, until the last one."""
        size, period = self._padding.size, self._padding.period
        tick = first_tick(self._clock() - self._came, period)
        number, ending = 0, False
        try:
            while not (ending and not self._text):
                await asyncio.sleep(self._came + tick * period - self._clock())
                number += 1
                if self._tail is not None and not self._text and not ending:
                    left = max(1, -(-len(self._tail) // size))
                    if ending := _power_of_two(number + left - 1):
                        self._text += self._tail
                if number == 1:
                    await self._send(start)
                data = bytes(self._text[:size])
                del self._text[:size]
                over = ending and not self._text
                data = _filled(self._kind, data, size, last=over)
                await self._send({"type": "http.response.body", "body": data, "more_body": not over})
                self._sent.set()
                tick = max(tick + 1, int((self._clock() - self._came) / period))
        finally:
            self._sent.set()


def first_tick(passed: float, period: float) -> int:
    """The number of periods after which the first frame leaves: the next power of two."""
    tick = 1
    while tick * period <= passed:
        tick *= 2
    return tick


def _filled(kind: bytes, data: bytes, size: int, *, last: bool) -> bytes:
    """A frame. Behind the last line of JSON nothing may follow, so there the spaces come before its end."""
    if last and kind == b"lines" and data.endswith(b"\n"):
        return data[:-1] + filler(kind, size - len(data)) + b"\n"
    return data + filler(kind, size - len(data))


def _power_of_two(number: int) -> bool:
    return number & (number - 1) == 0
