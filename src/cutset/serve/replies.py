"""Whole answers as JSON, and requests that are handed on with another body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Message, Receive, Send

__all__ = ["json_reply", "replayed", "send_json", "until_gone"]


def json_reply(content: Any) -> Response:
    """An answer of a page of Starlette's."""
    return Response(msgspec.json.encode(content), media_type="application/json")


async def send_json(
    send: Send, content: Any, *, status: int = 200, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    """Answers with `content`; `headers` beside its type and length."""
    body = msgspec.json.encode(content)
    shown = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": shown})
    await send({"type": "http.response.body", "body": body})


def replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives this body first, for an application behind one that has read it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def until_gone(receive: Receive) -> None:
    """Waits until the client has left, or closed its sending side; what it still sends is dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass
