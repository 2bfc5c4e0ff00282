"""A man in the middle: stands on any link between a client and an accelerator, reads all, changes what it likes."""

from __future__ import annotations

import itertools
import os
import threading
from typing import NamedTuple

import numpy as np

from attacks.setting import Array
from cutset.errors import LinkError
from cutset.link import Link, connect, listen
from cutset.offload.messages import Message, decode, encode

__all__ = ["Middle", "Proxy", "Sent"]

NUMBERS = itertools.count()
SECONDS = 20.0


class Sent(NamedTuple):
    """One frame, its header read."""

    message: Message
    arrays: tuple[Array, ...]


class Middle:
    """What happens to frames. This one passes them on and keeps what the client sent."""

    def __init__(self) -> None:
        self.wire: list[Sent] = []

    def request(self, sent: Sent) -> Sent:
        """What goes on to the accelerator instead of what the client sent."""
        return sent

    def reply(self, asked: Sent, answer: Sent) -> list[Sent]:
        """What goes back to the client instead of the accelerator's answer."""
        return [answer]


class Proxy:
    """Listens at `address`, sends on to `target`. Every request has one answer there, so one thread is enough."""

    def __init__(self, target: str, middle: Middle, link: str = "inproc") -> None:
        self.target, self.middle = target, middle
        self.address = f"{link}://middle-{os.getpid()}-{next(NUMBERS)}"
        self._listener = listen(self.address)
        self._onward: dict[Link, Link] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stop.is_set():
            got = self._listener.recv(0.05)
            for link in self._listener.gone():
                if (onward := self._onward.pop(link, None)) is not None:
                    onward.close()
            if got is None:
                continue
            link, frame = got
            sent = _copy(frame.header, frame.arrays)
            frame.release()
            try:
                self._pass(link, sent)
            except LinkError:  # one of the two has gone; the other is told by its closed link
                link.close()

    def _pass(self, link: Link, sent: Sent) -> None:
        self.middle.wire.append(sent)
        if link not in self._onward:
            self._onward[link] = connect(self.target)
        onward = self._onward[link]
        changed = self.middle.request(sent)
        onward.send(encode(changed.message), changed.arrays, timeout=SECONDS)
        frame = onward.recv(SECONDS)
        answer = _copy(frame.header, frame.arrays)
        frame.release()
        for message, arrays in self.middle.reply(sent, answer):
            link.send(encode(message), arrays, timeout=SECONDS)

    def close(self) -> None:
        """Ends both sides."""
        self._stop.set()
        self._thread.join(SECONDS)
        for onward in self._onward.values():
            onward.close()
        self._listener.close()


def _copy(header: bytes, arrays: tuple[Array, ...]) -> Sent:
    return Sent(decode(header), tuple(np.array(array) for array in arrays))
