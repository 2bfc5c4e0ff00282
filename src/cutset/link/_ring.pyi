"""Rings of records in memory that two processes share: native/link/ring.h documents them.

tests/kernels/test_stubs.py compares this with the module that was built. `memory` is writable and stays mapped as long
as what is made of it lives; offsets are bytes from its beginning. Timeouts are seconds, and no wait is longer than 0.1.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from typing_extensions import Buffer, CapsuleType

_Part = Buffer | np.ndarray[Any, Any]

class Broken(Exception):
    """The other side wrote what makes no sense."""

WORDS: int
WHOLE: int
FIRST: int
NEXT: int
CLOSED: int
BROKEN: int
JOINED: int

def load32(memory: Buffer, offset: int) -> int: ...
def load64(memory: Buffer, offset: int) -> int: ...
def store32(memory: Buffer, offset: int, value: int) -> None: ...
def store64(memory: Buffer, offset: int, value: int) -> None: ...
def compare_exchange(memory: Buffer, offset: int, expected: int, wanted: int) -> bool: ...
def fetch_add(memory: Buffer, offset: int, value: int) -> int: ...
def ring_bell(memory: Buffer, offset: int) -> None: ...

class Sender:
    def __init__(
        self,
        memory: Buffer,
        base: int,
        capacity: int,
        epoch: int,
        bell_memory: Buffer,
        bell: int,
        spin: float,
        naps: bool,
    ) -> None: ...
    @property
    def largest(self) -> int:
        """Bytes of a record, at most."""

    @property
    def offset(self) -> int:
        """Where the claimed record's bytes go, from the ring's words."""

    def claim(self, length: int, timeout: float) -> int:
        """Room for a record: 1 where there is some, 0 where there was none in time, -1 where the receiver closed."""

    def commit(self, kind: int, total: int) -> None:
        """Sends the claimed record; `total`: bytes of the whole frame."""

    def send(self, parts: Sequence[_Part], timeout: float, kind: int = 1, total: int = 0) -> int:
        """A record of these bytes, if there is room for it: what `claim` says."""

    def end(self) -> CapsuleType:
        """For native code of other modules (native/link/ends.h)."""

    def close(self) -> None: ...

class Receiver:
    def __init__(
        self,
        memory: Buffer,
        base: int,
        capacity: int,
        epoch: int,
        bell_memory: Buffer,
        bell: int,
        spin: float,
        naps: bool,
    ) -> None: ...
    @property
    def spin(self) -> float:
        """Seconds that a wait stays awake before it sleeps."""

    @spin.setter
    def spin(self, arg: float, /) -> None: ...
    def end(self) -> CapsuleType:
        """For native code of other modules (native/link/ends.h)."""

    def recv(self, timeout: float) -> tuple[int, int, int, int, int] | None:
        """The next record (cutset.link.interface.Record); None where none came in time. Raises Broken."""

    def release(self, end: int) -> None:
        """Records up to this end may be overwritten."""

    def close(self) -> None: ...

class Poller:
    """Many receivers with one bell, served in turns. `joins`: the offset of a word that rises when a client comes."""

    def __init__(self, memory: Buffer, bell: int, joins: int, spin: float, naps: bool) -> None: ...
    @property
    def naps(self) -> bool:
        """Short sleeps in place of futexes, which an enclave doesn't share."""

    @naps.setter
    def naps(self, arg: bool, /) -> None: ...
    @property
    def spin(self) -> float: ...
    @spin.setter
    def spin(self, arg: float, /) -> None: ...
    def add(self, token: int, receiver: Receiver) -> None: ...
    def end(self) -> CapsuleType:
        """For native code of other modules (native/link/ends.h)."""

    def pause(self, token: int, paused: bool) -> None:
        """A client that is paused isn't looked at: what it sends stays in its ring."""

    def remove(self, token: int) -> None: ...
    def recv(self, timeout: float) -> tuple[int, tuple[int, int, int, int, int]] | None:
        """The next record and whose it is."""
