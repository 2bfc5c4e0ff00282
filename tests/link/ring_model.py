"""The ring once more, slowly and in Python, from docs/protocol.md alone: the twin of native/link/ring.cpp."""

from __future__ import annotations

import struct

HEAD, SENDER_CLOSED, TAIL, RECEIVER_CLOSED, DATA, LINE = 0, 8, 64, 72, 256, 64
RECORD = struct.Struct("<QQIIQ")  # sequence, epoch, kind, length, total
WHOLE, FIRST, NEXT, SKIP = 1, 2, 3, 4
REWIND = 1 << 20


def lines(nbytes: int) -> int:
    return -(-nbytes // LINE) * LINE


class ModelSender:
    def __init__(self, memory: bytearray, capacity: int, epoch: int) -> None:
        self.memory, self.capacity, self.epoch = memory, capacity, epoch
        self.head = self.sequence = 0

    def send(self, data: bytes, kind: int = WHOLE, total: int | None = None) -> bool:
        (tail,) = struct.unpack_from("<Q", self.memory, TAIL)
        need, place = LINE + lines(len(data)), self.head % self.capacity
        skip = 0
        if place + need > self.capacity or (tail == self.head and place >= max(REWIND, need)):
            skip = self.capacity - place
        if self.head - tail + skip + need > self.capacity:
            return False
        if skip:
            self._record(b"", SKIP, 0, skip - LINE)
        self._record(data, kind, len(data) if total is None else total, len(data))
        struct.pack_into("<Q", self.memory, HEAD, self.head)
        return True

    def _record(self, data: bytes, kind: int, total: int, length: int) -> None:
        at = DATA + self.head % self.capacity
        RECORD.pack_into(self.memory, at, self.sequence, self.epoch, kind, length, total)
        self.memory[at + LINE : at + LINE + len(data)] = data
        self.head += LINE + lines(length)
        self.sequence += 1


class ModelReceiver:
    def __init__(self, memory: bytearray, capacity: int, epoch: int) -> None:
        self.memory, self.capacity, self.epoch = memory, capacity, epoch
        self.read = self.sequence = 0

    def recv(self) -> tuple[int, bytes, int] | None:
        """(kind, bytes, total), released at once; ValueError for words that make no sense."""
        while True:
            (head,) = struct.unpack_from("<Q", self.memory, HEAD)
            if head == self.read:
                return None
            if not self.read <= head <= self.read + self.capacity or head % LINE:
                raise ValueError("head")
            place = self.read % self.capacity
            sequence, epoch, kind, length, total = RECORD.unpack_from(self.memory, DATA + place)
            size = LINE + lines(length)
            if (sequence, epoch) != (self.sequence, self.epoch) or not WHOLE <= kind <= SKIP:
                raise ValueError("record")
            if size > head - self.read or place + size > self.capacity:
                raise ValueError("length")
            data = bytes(self.memory[DATA + place + LINE : DATA + place + LINE + length])
            self.read += size
            self.sequence += 1
            struct.pack_into("<Q", self.memory, TAIL, self.read)
            if kind != SKIP:
                return kind, data, total
            if self.read % self.capacity:
                raise ValueError("gap")
