"""Requests that come from this process: the same applications answer them, without a connection."""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Scope

from cutset.errors import CutsetError
from cutset.serve.api_errors import ApiError, as_api_error, server_failed
from cutset.serve.request_limits import BACKGROUND

__all__ = ["InnerAnswer", "ask"]

log = logging.getLogger(__name__)


class InnerAnswer(NamedTuple):
    """What a client would have got; `request_id` is empty where the answer names none."""

    status: int
    request_id: str
    body: bytes


async def ask(app: ASGIApp, path: str, body: bytes, owner: str | None = None) -> InnerAnswer:
    """POSTs JSON in the background: all requests of others go before it. Cancel it, and what runs for it ends.

    `owner`: whose request it is, as `scope["cutset.client"]` says it.
    """
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "client": None,
        "server": None,
        BACKGROUND: True,
    }
    if owner is not None:
        scope["cutset.client"] = owner
    given, status, request_id, parts = False, 500, "", list[bytes]()

    async def receive() -> Message:
        nonlocal given
        if given:
            await asyncio.Event().wait()  # whoever asks is there until it is answered
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, request_id
        if message["type"] == "http.response.start":
            status = message["status"]
            request_id = next((value.decode() for name, value in message["headers"] if name == b"x-request-id"), "")
        else:
            parts.append(message.get("body", b""))

    try:
        await app(scope, receive, send)
    except ApiError as error:
        return InnerAnswer(error.status, "", error.body())
    except CutsetError as error:
        shown = as_api_error(error)
        return InnerAnswer(shown.status, "", shown.body())
    except Exception:
        log.exception("a request of a batch failed")
        return InnerAnswer(500, "", server_failed().body())
    return InnerAnswer(status, request_id, b"".join(parts))
