"""The record that no pad is used twice.

A ledger belongs to one process: it has a master key that nobody else has and that is never stored, and counts the
blocks of pads from 0 on. A block's rows are handed out from the first to the last, each once. A child process that was
forked would count on from the same place under the same key, so there every use is an error: the kernel gives the child
zeros in place of the key (MADV_WIPEONFORK), and where it can't, Python wipes it. Numbers of processes prove nothing: in
another namespace a child has the same one.
"""

from __future__ import annotations

import hmac
import os
import threading
import weakref
from dataclasses import dataclass, field

import numpy as np

from cutset.errors import OffloadError
from cutset.offload.arithmetic import SEED_BYTES
from cutset.offload.client.private_memory import private_array

__all__ = ["SEED_INFO", "Block", "Ledger", "PadSpan", "seed_of"]

SEED_INFO = b"cutset pad seed 1\0"


@dataclass(frozen=True)
class PadSpan:
    """Rows start .. start + rows of a block: what a pad is made of."""

    block: int
    start: int
    rows: int


def seed_of(master: bytes | memoryview, number: int) -> bytes:
    """The seed of a block of pads: HMAC-SHA256 under the master key over `SEED_INFO` and the block's number, 8 bytes
    little-endian. It reveals nothing about the master key or other seeds, so it may be given to a pad server."""
    return hmac.digest(master, SEED_INFO + number.to_bytes(8, "little"), "sha256")


LEDGERS: weakref.WeakSet[Ledger] = weakref.WeakSet()


class Ledger:
    """The blocks of pads of one process. Any thread may use it."""

    def __init__(self) -> None:
        # Its first byte is 1 where the key behind it is there.
        self._page = private_array((1 + SEED_BYTES,), np.uint8, wipe_on_fork=True)
        self._page[:] = np.frombuffer(b"\1" + os.urandom(SEED_BYTES), np.uint8)
        LEDGERS.add(self)
        self._lock = threading.Lock()
        self._next = 0
        self.name = os.urandom(16)  # anybody may know it: what receipts call this ledger

    @property
    def _master(self) -> memoryview:
        return self._page.data[1:].toreadonly()

    @property
    def forked(self) -> bool:
        """This is a child of the process that made the ledger."""
        return bool(self._page[0] != 1)

    def wipe(self) -> None:
        """Forgets the key: from now on this can't be used."""
        self._page[:] = 0

    def __repr__(self) -> str:
        return f"Ledger(blocks={self._next})"

    def __reduce__(self) -> str:
        raise TypeError("a ledger stays in its process")

    @property
    def blocks(self) -> int:
        """How many blocks were opened."""
        return self._next

    def check_process(self) -> None:
        """Raises OffloadError in a process that was forked from the one that made the ledger."""
        if self.forked:
            raise OffloadError(
                "this process was forked after the model was loaded; load it again here, pads are single-use"
            )

    def open(self, rows: int) -> Block:
        """A new block: its number was never used before."""
        self.check_process()
        if rows < 1:
            raise ValueError("a block has at least one row")
        with self._lock:
            number = self._next
            self._next += 1
        return Block(number, rows, self)

    def seed(self, number: int) -> bytes:
        """The seed of a block that was opened."""
        self.check_process()
        if not 0 <= number < self._next:
            raise ValueError(f"block {number} was never opened")
        return seed_of(self._master, number)


@dataclass
class Block:
    """A block of pads, all of one matrix. `rows` in all, of which `taken` were handed out."""

    number: int
    rows: int
    ledger: Ledger = field(repr=False)
    taken: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def left(self) -> int:
        """Rows that weren't handed out."""
        return self.rows - self.taken

    def take(self, rows: int) -> PadSpan:
        """The next rows. OffloadError if there are not so many left, or after a fork."""
        self.ledger.check_process()
        with self.lock:
            if not 0 < rows <= self.left:
                raise OffloadError(f"block {self.number} of the pads has {self.left} rows left, not {rows}")
            span = PadSpan(self.number, self.taken, rows)
            self.taken += rows
        return span


def _wipe_all() -> None:
    for ledger in list(LEDGERS):
        ledger.wipe()


os.register_at_fork(after_in_child=_wipe_all)
