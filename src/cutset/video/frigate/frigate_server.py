"""Serves Frigate's detectors: requests become pictures of a stream, and its results their answers.

The protocol has no word for an error, and a client takes zeros for an empty scene. So what fails or comes too late gets
no answer: the client times out. A REP socket would have to answer in turn, so this is a ROUTER.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import zmq
from numpy.typing import NDArray

from cutset.errors import ConfigError, FrameError, LinkError, printable
from cutset.link.addresses import parse_address
from cutset.link.zeromq import bind_file
from cutset.video.detection.boxes import Detections
from cutset.video.frigate.protocol import (
    answer,
    envelope,
    model_answer,
    pixels_of,
    read_request,
    refusal,
)
from cutset.video.sources.picture import Picture, Source, check_size

__all__ = ["FrigateServer", "RequestedPictures"]

MOST_WAITING = 16  # requests; of more, the oldest is dropped
AHEAD = 4  # messages of a client that are read before they are looked at; a REQ socket sends one at a time
MOST_TENSOR = 4 * 3 * 640 * 640  # bytes: the largest that Frigate is set up for, of float32
POLL = 100  # ms
LOCAL = ("127.", "localhost:", "[::1]:")


@dataclass(eq=False)
class _Request:
    client: bytes
    pixels: NDArray[np.uint8]
    captured: float
    open: bool = True  # its client still waits for it


class FrigateServer:
    """Listens from its making until `close`. `pictures` is the source for a stream of one network; whoever takes its
    results hands them to `found` and `failed`, by the picture's number.

    `counts`: requests, answered, and failed by reason. `size`: rows and columns of the pictures that the network
    takes. `deadline`: seconds, after which a request is too late. Raises ConfigError, LinkError.
    """

    def __init__(
        self,
        address: str,
        size: tuple[int, int],
        *,
        deadline: float = 0.2,
        model: str | None = None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`model`: the one name of a model that is answered for; None: whichever the client asks for."""
        check_size("--frigate", size)
        self.size, self.deadline = size, deadline
        self.counts: Counter[str] = Counter()
        self.pictures = RequestedPictures(self)
        self._model, self._log = model, log
        self._lock = threading.Condition()
        self._waiting: deque[_Request] = deque()
        self._running: dict[int, _Request] = {}  # by the picture's number
        self._latest: dict[bytes, _Request] = {}  # of each client that waits
        self._asked: list[bytes] = []  # clients that asked for the model before it was ready
        self._said: set[str] = set()
        self._ready = self._closed = False
        self._next = 0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._answers = self._context.socket(zmq.PULL)
        self._out = self._context.socket(zmq.PUSH)
        try:
            self.address = self._bind(address)
        except BaseException:
            self._context.destroy(0)
            raise
        self._thread = threading.Thread(target=self._serve, name="cutset-frigate", daemon=True)
        self._thread.start()

    # Whoever runs the stream.

    def ready(self) -> None:
        """Workers are there: clients that asked for the model are told so."""
        with self._lock:
            if self._ready or self._closed:
                return
            self._ready = True
            asked, self._asked = self._asked, []
            for client in asked:
                self._post(client, model_answer(True))

    def take(self) -> tuple[int, _Request] | None:
        """The next request that is still waited for, with the picture's number; waits. None once it is closed."""
        with self._lock:
            while True:
                self._lock.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return None
                request = self._waiting.popleft()
                if not request.open:
                    continue
                if time.monotonic() - request.captured > self.deadline:
                    self._fail(request, "late")
                    continue
                number, self._next = self._next, self._next + 1
                self._running[number] = request
                return number, request

    def found(self, number: int, found: Detections) -> None:
        """Answers the request of that picture, unless its client doesn't wait any more. Boxes in its pixels."""
        with self._lock:
            request = self._running.pop(number, None)
            if request is None or not request.open:
                return
            if time.monotonic() - request.captured > self.deadline:
                self._fail(request, "late")
                return
            self._end(request)
            self.counts["answered"] += 1
            self._post(request.client, answer(found, self.size))

    def failed(self, number: int, why: str) -> None:
        """The request of that picture has no answer."""
        with self._lock:
            request = self._running.pop(number, None)
            if request is not None and request.open:
                self._fail(request, why)

    def line(self) -> str:
        """What is said at the end."""
        rest = sorted((why, count) for why, count in self.counts.items() if why not in ("requests", "answered"))
        failed = "".join(f", {count} {why}" for why, count in rest)
        return f"{self.counts['requests']} requests, {self.counts['answered']} answered{failed}"

    def close(self) -> None:
        """Ends the socket and the source. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for request in (*self._waiting, *self._running.values()):
                if request.open:
                    self._fail(request, "unfinished")
            self._lock.notify_all()
        self._thread.join()
        self._out.close(0)
        self._context.destroy(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # With the lock held.

    def _end(self, request: _Request) -> None:
        request.open = False
        if self._latest.get(request.client) is request:
            del self._latest[request.client]

    def _fail(self, request: _Request, why: str) -> None:
        self._end(request)
        self.counts[why] += 1

    def _post(self, client: bytes, frames: list[bytes]) -> None:
        """Hands an answer to the thread that has the socket."""
        with contextlib.suppress(zmq.Again):
            self._out.send_multipart([client, b"", *frames], zmq.NOBLOCK)

    # The thread that has the sockets.

    def _bind(self, text: str) -> str:
        where = parse_address(text)
        if where.scheme not in ("tcp", "ipc"):
            raise ConfigError(
                f"--frigate: Frigate's plugin connects to tcp://HOST:PORT or ipc://PATH, not {text[:80]!r}"
            )
        sock = self._socket
        sock.linger = 0
        sock.sndhwm = 4 * MOST_WAITING
        # ZeroMQ drops who sends more, and says nothing: a client whose pictures are merely too large must hear why.
        sock.rcvhwm, sock.maxmsgsize = AHEAD, max(MOST_TENSOR, 3 * self.size[0] * self.size[1])
        self._answers.bind("inproc://answers")
        self._out.connect("inproc://answers")
        if where.scheme == "ipc":
            bind_file(sock, where)
            return str(where)
        try:
            sock.bind(str(where))
        except zmq.ZMQError as error:
            raise LinkError(f"can't listen at {where}: {error.strerror}") from None
        if not where.place.startswith(LOCAL):
            self._log(
                f"whoever reaches {where} may have pictures looked at: Frigate's protocol knows no keys; a firewall "
                "must see to it, or ipc://PATH"
            )
        bound = sock.getsockopt_string(zmq.LAST_ENDPOINT)
        return str(bound)

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._answers, zmq.POLLIN)
        try:
            while not self._closed:
                come = dict(poller.poll(POLL))
                if self._answers in come:
                    self._pass_on()
                if self._socket in come:
                    self._receive()
        finally:
            self._socket.close(0)
            self._answers.close(0)

    def _pass_on(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                frames = self._answers.recv_multipart(zmq.NOBLOCK)
                with contextlib.suppress(zmq.ZMQError):  # a client that doesn't read: it has left
                    self._socket.send_multipart(frames, zmq.NOBLOCK)

    def _receive(self) -> None:
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
        try:
            client, parts = envelope(frames)
            self._take_message(client, parts)
        except FrameError as error:
            with self._lock:
                self.counts["requests"] += 1
                self.counts["malformed"] += 1
            self._say(f"a request gets no answer: {error}")

    def _take_message(self, client: bytes, parts: list[bytes]) -> None:
        request = read_request(parts[0])
        if request.model_request or request.model_data:
            self._about_model(client, request.model_name, request.model_data)
            return
        if len(parts) != 2:
            raise FrameError("a request without a tensor")
        pixels = pixels_of(request, parts[1], self.size)
        new = _Request(client, pixels, time.monotonic())
        with self._lock:
            self.counts["requests"] += 1
            if (old := self._latest.get(client)) is not None:  # it has given that one up
                self._fail(old, "late")
            self._latest[client] = new
            self._waiting.append(new)
            while len(self._waiting) > MOST_WAITING:
                oldest = self._waiting.popleft()
                if oldest.open:
                    self._fail(oldest, "crowded out")
            self._lock.notify_all()

    def _about_model(self, client: bytes, name: str, sent: bool) -> None:
        shown = printable(name, lines=False)[:100]
        with self._lock:
            self.counts["questions for the model"] += 1
            if sent:
                self._say(f"Frigate sends the model {shown!r}: it isn't taken. Start the detector with that file")
                self._post(client, refusal())
            elif self._model is not None and name != self._model:
                self._say(f"Frigate asks for the model {shown!r}: this detector answers for {self._model!r} alone")
                self._post(client, model_answer(False))
            elif self._ready:
                self._post(client, model_answer(True))
            elif len(self._asked) < MOST_WAITING:
                self._asked.append(client)

    def _say(self, line: str) -> None:
        if line not in self._said and len(self._said) < 100:  # not for every request
            self._said.add(line)
            self._log(line)


class RequestedPictures(Source):
    """The pictures of a server's requests, for a stream. It ends when the server is closed."""

    name, rate, live = "frigate", None, True

    def __init__(self, server: Any) -> None:
        self._server = server
        self.size = server.size

    def __iter__(self) -> Iterator[Picture]:
        while (taken := self._server.take()) is not None:
            number, request = taken
            yield Picture(number, request.pixels, request.captured, captured=request.captured)
