"""What one HTTP request was and how it went, for whoever logs or traces it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cutset.serve.running_request import RunningRequest

__all__ = ["Recorded", "RequestRecord", "Sink", "current_record"]


@dataclass(slots=True)
class RequestRecord:
    """One request, from its head to the end of its answer. Times are those of time.perf_counter; nothing that was asked
    or answered is in here, and no header but those that name a trace."""

    method: str
    path: str  # without what follows a question mark
    started: float
    began: float  # seconds since the epoch
    client: str = ""
    ended: float = 0.0
    status: int = 0  # 0: the client left before there was one
    request_id: str | None = None
    model: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    tokens: int | None = None  # generated
    submitted: float | None = None  # when the engine got it
    first_token: float | None = None
    trace_headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """From its head to its end."""
        return self.ended - self.started

    def generated(self, request_id: str, model: str, running: RunningRequest) -> None:
        """Takes what a generation has come to."""
        self.request_id, self.model = request_id, model
        self.prompt_tokens, self.tokens = running.prompt_tokens, running.tokens
        self.cached_tokens = running.usage.cached_tokens
        self.submitted, self.first_token = running.started, running.first_token


Sink = Callable[[RequestRecord], object]
_current: ContextVar[RequestRecord | None] = ContextVar("cutset_record", default=None)
TRACE_HEADERS = (b"traceparent", b"tracestate")


def current_record() -> RequestRecord | None:
    """That of the request that is being answered; None where nobody wants one."""
    return _current.get()


class Recorded:
    """Middleware that gives each sink the record of every request that has ended."""

    def __init__(self, app: ASGIApp, sinks: Sequence[Sink]) -> None:
        self.app, self.sinks = app, tuple(sinks)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        client: Any = scope.get("client")
        record = RequestRecord(
            scope["method"],
            scope["path"],
            time.perf_counter(),
            time.time(),
            client[0] if client else "",
            trace_headers={
                name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in TRACE_HEADERS
            },
        )

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
            await send(message)

        token = _current.set(record)
        try:
            await self.app(scope, receive, noted)
        except BaseException:
            record.status = record.status or 500
            raise
        finally:
            _current.reset(token)
            record.ended = time.perf_counter()
            for sink in self.sinks:
                sink(record)
