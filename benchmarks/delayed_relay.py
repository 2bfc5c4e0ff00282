"""Passes bytes on to a port of this machine, each way as late as a long link would, for `masked_speculation`.

PYTHON benchmarks/delayed_relay.py HOST:PORT SECONDS
Says on stdout where it listens. `SECONDS` is the time of a byte one way; how fast bytes follow each other stays.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from queue import SimpleQueue

__all__ = ["DelayedRelay", "main"]

CHUNK = 1 << 18


class DelayedRelay:
    """Listens until the process ends."""

    def __init__(self, target: tuple[str, int], seconds: float) -> None:
        self._target, self._seconds = target, seconds
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._listener.getsockname())

    def serve(self) -> None:
        """Does not return."""
        while True:
            near, _ = self._listener.accept()
            far = socket.create_connection(self._target)
            for one in (near, far):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, target in ((near, far), (far, near)):
                waiting: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
                threading.Thread(target=self._read, args=(source, waiting), daemon=True).start()
                threading.Thread(target=self._write, args=(target, waiting), daemon=True).start()

    def _read(self, source: socket.socket, waiting: SimpleQueue[tuple[float, bytes]]) -> None:
        data = b"-"
        while data:
            try:
                data = source.recv(CHUNK)
            except OSError:
                data = b""
            waiting.put((time.monotonic() + self._seconds, data))

    def _write(self, target: socket.socket, waiting: SimpleQueue[tuple[float, bytes]]) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = waiting.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    break
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def main() -> None:
    host, _, port = sys.argv[1].rpartition(":")
    relay = DelayedRelay((host, int(port)), float(sys.argv[2]))
    print(f"relaying at tcp://{relay.address}", flush=True)
    relay.serve()


if __name__ == "__main__":
    main()
