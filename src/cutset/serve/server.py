"""Runs the application with uvicorn: a socket before the model, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import LOGGING_CONFIG

from cutset.errors import ConfigError
from cutset.serve.connection import Connection
from cutset.serve.model_pool import ModelPool
from cutset.serve.pending import PendingConnections
from cutset.serve.reload import FileWatch
from cutset.serve.request_limits import RequestLimits
from cutset.serve.service import Service
from cutset.serve.tls import Certificate

__all__ = ["Server", "bind", "serve_in_thread", "url_of"]

HANDSHAKE_S = 20.0  # of TLS


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens; taken first, so that a port of somebody else's is known before a model is loaded.

    It listens at once: two sockets that are only bound may share a port, and who comes second would know too late.
    Clients that come early wait until the model is there.

    Raises ConfigError.
    """
    try:
        [first, *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = first
        # By the protocol asyncio knows that Nagle's algorithm is to be off: the body of an answer would wait behind its
        # head until the client acknowledges that, for 40 ms.
        found = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:  # of a name that no host can have
        raise ConfigError(f"can't listen on {host[:100]}: {getattr(error, 'strerror', None) or error}") from None
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(2048)
    except OSError as error:
        found.close()
        raise ConfigError(f"can't listen on {host} port {port}: {error.strerror}; choose another port") from None
    return found


def url_of(listening: socket.socket, *, tls: bool = False) -> str:
    """`http://127.0.0.1:8000`"""
    host, port = listening.getsockname()[:2]
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class Server(uvicorn.Server):
    """Takes no more requests at the first signal and waits for those that run; one that it gives up gets an error.

    The second signal ends at once.
    """

    def __init__(
        self,
        app: ASGIApp,
        service: Service | ModelPool,
        report: Callable[[str], None] = lambda line: None,
        proxies: Sequence[str] = (),
        *,
        tls: Certificate | None = None,
        watch: FileWatch | None = None,  # files that are read again when they change, or at SIGHUP
        own_logs: bool = True,  # False: what uvicorn logs goes where all logs go
    ) -> None:
        super().__init__(configuration(app, service.limits, proxies, tls, own_logs=own_logs))
        self.service, self._report, self._watch = service, report, watch
        self._watching: asyncio.Task[None] | None = None
        service.readiness.stop = self._stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal stops the server gracefully, a second one ends it at once."""
        # Not uvicorn's: it raises the signal again when all is done, and the process would end as if it had failed.
        if self.should_exit:
            self.force_exit = True
            return
        self._stop()

    def _stop(self) -> None:
        self.should_exit = True
        self.service.stop()
        if running := len(self.service.running):
            grace = self.service.limits.grace_s
            self._report(f"stopping: waiting up to {grace:g} s for {running} requests; Ctrl-C again ends at once")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, and begins to look after files."""
        loop = asyncio.get_running_loop()
        if self.config.ssl is not None:
            # Connections count from the end of their handshake on, for which asyncio would wait a minute.
            listen = loop.create_server
            self_limited = partial(listen, ssl_handshake_timeout=HANDSHAKE_S)
            loop.create_server = self_limited  # type: ignore[method-assign]
        await super().startup(sockets)
        if self._watch is not None:
            self._watching = asyncio.create_task(self._watch.run())
            if threading.current_thread() is threading.main_thread():
                loop.add_signal_handler(signal.SIGHUP, self._watch.check)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends streams and requests, after `limits.grace_s` seconds by force."""
        self.service.stop()
        self.service.hub.close()
        timer = asyncio.get_running_loop().call_later(self.service.limits.grace_s, self.service.close)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()
            if self._watching is not None:
                self._watching.cancel()
            self.service.close()


def configuration(
    app: ASGIApp,
    limits: RequestLimits,
    proxies: Sequence[str] = (),
    tls: Certificate | None = None,
    *,
    own_logs: bool = True,
) -> uvicorn.Config:
    """How uvicorn runs an application of ours. h11 bounds the size of headers; httptools doesn't.

    `proxies`: addresses and networks that are believed in what X-Forwarded-Proto and X-Forwarded-For say.
    """

    class Limited(Connection):
        write_s = limits.write_s
        pending = PendingConnections(limits.waiting, proxies)

    found = uvicorn.Config(
        app,
        http=Limited,
        ws="none",
        lifespan="auto",
        loop="asyncio",
        log_config=LOGGING_CONFIG if own_logs else None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(limits.grace_s) + 5,
        limit_concurrency=limits.connections,
        h11_max_incomplete_event_size=65536,
    )
    found.load()
    if tls is not None:
        found.ssl = tls.context
    return found


@contextlib.contextmanager
def serve_in_thread(server: uvicorn.Server, listening: socket.socket) -> Iterator[str]:
    """Runs a server in a thread of its own while the context is open; gives its address."""
    thread = threading.Thread(target=server.run, args=([listening],), name="cutset-http", daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.01)
    try:
        yield url_of(listening, tls=server.config.ssl is not None)
    finally:
        server.should_exit = True
        thread.join(30)
