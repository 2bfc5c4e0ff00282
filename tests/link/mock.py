"""A link that drops, delays, duplicates, truncates and corrupts what is sent over it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence

from cutset.link import Limits, Link, Timeouts
from cutset.link.channel import Channel
from cutset.link.inproc import InprocLink

__all__ = ["FAULTS", "MockLink"]


class MockLink(Channel):
    """One end of an inproc link. `faults` names what happens to each frame that is sent, in turns; "" is nothing.

    Wrap the listener's end as well to do it to the replies. `sent` and `received` are the bytes of all frames.
    """

    def __init__(self, inner: Link, faults: Sequence[str] = ("",), seed: int = 0) -> None:
        assert isinstance(inner, InprocLink)
        super().__init__(inner.address, inner.peer, inner._timeouts, Limits(frame=inner._limit))
        self.inner = inner
        self.sent: list[bytes] = []
        self.received: list[bytes] = []
        self._faults = [FAULTS[name] for name in faults]
        self._random = random.Random(seed)

    @property
    def timeouts(self) -> Timeouts:
        return self._timeouts

    def _put(self, data: bytes | bytearray, timeout: float, *, urgent: bool = False) -> None:
        fault = self._faults[len(self.sent) % len(self._faults)]
        self.sent.append(bytes(data))
        for arriving in fault(bytes(data), self._random):
            self.inner._put(arriving, timeout)

    def _take(self, timeout: float) -> memoryview:
        data = self.inner._take(timeout)
        self.received.append(bytes(data))
        return data

    def close(self) -> None:
        self.inner.close()


def _pass(data: bytes, _: random.Random) -> Iterator[bytes]:
    yield data


def _drop(data: bytes, _: random.Random) -> Iterator[bytes]:
    return iter(())


def _delay(data: bytes, rng: random.Random) -> Iterator[bytes]:
    time.sleep(0.01 + 0.04 * rng.random())
    yield data


def _duplicate(data: bytes, _: random.Random) -> Iterator[bytes]:
    yield data
    yield data


def _truncate(data: bytes, rng: random.Random) -> Iterator[bytes]:
    yield data[: rng.randrange(len(data))]


def _corrupt(data: bytes, rng: random.Random) -> Iterator[bytes]:
    """One bit of the head or of what follows."""
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    yield bytes(changed)


Fault = Callable[[bytes, random.Random], Iterator[bytes]]
FAULTS: dict[str, Fault] = {
    "": _pass,
    "drop": _drop,
    "delay": _delay,
    "duplicate": _duplicate,
    "truncate": _truncate,
    "corrupt": _corrupt,
}
