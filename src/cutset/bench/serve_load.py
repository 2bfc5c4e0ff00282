"""Streaming clients for `cutset bench serve`: as light as they can be, since they share the machine with the server."""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cutset.errors import EngineError

__all__ = ["StreamedAnswer", "StreamedRequest", "ask_together"]

SILENCE = 120.0  # seconds after which the server counts as gone


@dataclass(frozen=True, slots=True)
class StreamedAnswer:
    """One streamed answer. Seconds since it was asked for."""

    tokens: int
    first_s: float
    whole_s: float


class StreamedRequest:
    """A request for that many tokens, greedy, with `more` fields, and what has come of its answer. Whoever has a
    connection carries it: `message` first, then each piece to `feed` until the server closes.
    """

    def __init__(self, url: str, prompt: Sequence[int] | str, tokens: int, more: Mapping[str, Any]) -> None:
        body = json.dumps(
            {
                "prompt": prompt if isinstance(prompt, str) else list(prompt),
                "max_tokens": tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
                **more,
            }
        )
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.message = (head + body).encode()
        self._tokens, self._tail = tokens, b""
        self._start, self._first = time.perf_counter(), 0.0

    def feed(self, piece: bytes) -> None:
        """Takes bytes of the answer in the order in which they came."""
        if not self._first and b"data: " in piece:
            self._first = time.perf_counter() - self._start
        self._tail = (self._tail + piece)[-4096:]

    def answer(self) -> StreamedAnswer:
        """After the end. Raises EngineError for anything but all of the tokens."""
        whole = time.perf_counter() - self._start
        counted = self._tail.rpartition(b'"completion_tokens":')[2].partition(b",")[0]
        if b"data: [DONE]" not in self._tail or counted != str(self._tokens).encode():
            raise EngineError(f"the server didn't give {self._tokens} tokens, but ended with {self._tail[-200:]!r}")
        return StreamedAnswer(self._tokens, self._first, whole)


def ask_together(
    url: str,
    prompts: Sequence[Sequence[int] | str],
    tokens: int,
    *,
    each: int = 1,
    more: Sequence[Mapping[str, Any]] = (),  # fields of each prompt's requests
) -> tuple[float, list[StreamedAnswer]]:
    """All prompts at once, `each` times one after another: seconds until all are done, and the answers.

    Raises EngineError.
    """
    where, answers = urlsplit(url), list[StreamedAnswer]()
    waiting = [deque([prompt] * each) for prompt in prompts]
    open_ones: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:

        def ask(client: int) -> None:
            request = StreamedRequest(url, waiting[client].popleft(), tokens, more[client] if more else {})
            connection = socket.create_connection((where.hostname, where.port), SILENCE)
            open_ones[client] = connection
            selector.register(connection, selectors.EVENT_READ, (client, request))
            connection.sendall(request.message)

        start = time.perf_counter()
        try:
            for client in range(len(waiting)):
                ask(client)
            while open_ones:
                if not (ready := selector.select(SILENCE)):
                    raise EngineError(f"the server said nothing for {SILENCE:g} s")
                for key, _ in ready:
                    client, request = key.data
                    if piece := open_ones[client].recv(1 << 16):
                        request.feed(piece)
                        continue
                    selector.unregister(key.fileobj)
                    open_ones.pop(client).close()
                    answers.append(request.answer())
                    if waiting[client]:
                        ask(client)
        except OSError as error:
            raise EngineError(f"the connection to the server broke: {error}") from None
        finally:
            for connection in open_ones.values():
                connection.close()
    return time.perf_counter() - start, answers
