"""uvicorn's HTTP/1.1 connections, which may not take for ever to send a request's head, nor to read an answer, and of
which one address may not have too many that only wait."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from cutset.serve.pending import PendingConnections
from cutset.serve.tls import tls_key

__all__ = ["Connection"]


class Connection(H11Protocol):
    """Closed `head_s` seconds after it was opened, or the next request's first bytes came, if no request has begun; and
    when its client has read too little of an answer for `write_s` seconds. uvicorn itself only closes connections that
    are idle between two requests.

    While it has sent no whole request it is part of the `pending`, which may close it for newer ones. Who waits in
    `receive` gets http.disconnect when the client has left, and `send` does nothing from then on.
    """

    pending: PendingConnections
    head_s, write_s = 20.0, 30.0
    _late: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None  # since the buffer is full

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected: counts as pending until it has sent a whole request."""
        super().connection_made(transport)
        secure = transport.get_extra_info("ssl_object")
        if secure is not None:
            self.app = _showing_key(self.app, tls_key(secure))
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            self.pending.make_room()
        self._await_head()
        self._join()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request arrived."""
        super().data_received(data)
        if self.idle:
            self._await_head()
        else:
            self._stop_waiting()
        if self.idle or self.cycle.more_body:
            self._join()
        else:
            self.pending.leave(self)

    def on_response_complete(self) -> None:
        """The answer has been written: the connection is pending again."""
        super().on_response_complete()
        if self.idle:
            self._join()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended, by either side."""
        self._stop_waiting()
        self._moves()
        self.pending.leave(self)
        super().connection_lost(exc)

    @property
    def idle(self) -> bool:
        """No request has begun since the last answer."""
        return self.cycle is None or self.cycle.response_complete

    def drop(self) -> None:
        """Closes it: what it was sent already it still gets."""
        self.transport.close()

    def pause_writing(self) -> None:
        """The client reads more slowly than it is written to: starts the deadline of `limits.write_s`."""
        super().pause_writing()
        if self._stuck is None:
            self._stuck = self.loop.call_later(self.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._moves()
        super().resume_writing()

    def _moves(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _await_head(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(self.head_s, self._give_up)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._late = None
        if self.idle and not self.transport.is_closing():
            self.transport.close()

    def _join(self) -> None:
        if not self.transport.is_closing():
            self.pending.join(self, self.client[0] if self.client else "")


def _showing_key(app: Any, key: bytes | None) -> Any:
    """The application, told the public key that the connection's client was shown."""

    async def told(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await app({**scope, "cutset.tls_key": key}, receive, send)

    return told
