"""A socket file through which links pass, and can be cut or blocked while both ends live on."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from types import TracebackType


class Passage:
    """Listens at `address` and passes every connection on to a worker's socket file.

    Connections are counted from 0: the coordinator's comes first, then that of the worker before.
    """

    def __init__(self, path: str, to: str) -> None:
        self.address = f"ipc://{path}"
        self._path, self._to = path, to.removeprefix("ipc://")
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._open = threading.Event()
        self._open.set()
        self._blocked: set[int] = set()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(path)
        self._listening.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def count(self) -> int:
        return len(self._pairs)

    def cut(self, first: int = 0) -> None:
        """Breaks the connections from the first-th on, and all that come, until `mend`."""
        self._open.clear()
        for pair in self._pairs[first:]:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def block(self, first: int = 0) -> None:
        """From now on nothing comes through the connections from the first-th on; neither end is told."""
        self._blocked |= set(range(first, len(self._pairs)))

    def mend(self) -> None:
        self._open.set()

    def close(self) -> None:
        self.cut()
        self._listening.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            if not self._open.is_set():
                near.close()
                continue
            far = socket.socket(socket.AF_UNIX)
            try:
                far.connect(self._to)
            except OSError:
                near.close()
                continue
            self._pairs.append((near, far))
            number = len(self._pairs) - 1
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(number, *ends), daemon=True).start()

    def _pass(self, number: int, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if number not in self._blocked:
                    sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Passage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
