"""Who may connect over tcp: the handler that ZeroMQ asks about every client's key (RFC 27, ZAP).

What isn't on the list, or isn't CURVE, is refused; and while nobody answers, ZeroMQ admits nobody.
"""

from __future__ import annotations

import threading
from typing import Any

import zmq

from cutset.link.keys import key_allowed

__all__ = ["DOMAIN", "Door"]

DOMAIN = b"cutset"
SLICE_MS = 100
VERSION = b"1.0"


class Door:
    """Answers in a thread of its own, until `stop`. `allowed` are public keys of 32 bytes; `expect` adds others."""

    def __init__(self, context: zmq.Context[Any], allowed: frozenset[bytes]) -> None:
        self._allowed = allowed
        self._expected: frozenset[bytes] = frozenset()
        self._sock = context.socket(zmq.REP)
        self._sock.linger = 0
        self._sock.bind("inproc://zeromq.zap.01")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="cutset-zap", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with self._sock as sock:
            while not self._stop.is_set():
                if sock.poll(SLICE_MS):
                    sock.send_multipart(self._answer(sock.recv_multipart()))

    def _answer(self, request: list[bytes]) -> list[bytes]:
        number = request[1] if len(request) > 1 else b""
        # version, number, domain, address, identity, mechanism, the client's public key
        good = len(request) == 7 and request[0] == VERSION and request[2] == DOMAIN and request[5] == b"CURVE"
        if good and key_allowed(request[6], self._allowed | self._expected):
            return [VERSION, number, b"200", b"OK", request[6].hex().encode(), b""]
        return [VERSION, number, b"400", b"this key is not allowed", b"", b""]

    def expect(self, keys: frozenset[bytes]) -> None:
        """Allows these too, and no longer those of the call before."""
        self._expected = keys

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
