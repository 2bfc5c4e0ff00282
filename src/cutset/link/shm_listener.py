"""The listener of shared memory: a control file whose slots clients claim, and one bell for all of them."""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import time
from collections import deque
from collections.abc import Collection

from cutset.config import usable_cores
from cutset.errors import FrameError, LinkClosed, LinkError
from cutset.link import segment
from cutset.link.addresses import Address
from cutset.link.frames import Frame
from cutset.link.interface import Link
from cutset.link.limits import MIN_RING, Limits, Timeouts
from cutset.link.shm import DATA_BELL, SLICE, ShmLink, patience
from cutset.link.shm import extension as _ring

__all__ = ["listen"]

SENDER_CLOSED = 8  # offset in the words of the ring that the client sends on
CLOSED, BROKEN, JOINED = _ring.CLOSED, _ring.BROKEN, _ring.JOINED
LOOK = 0.25  # seconds between two looks whether clients live


class ShmListener:
    def __init__(
        self, where: Address, timeouts: Timeouts, limits: Limits, locks: segment.Locks, control: mmap.mmap, epoch: int
    ) -> None:
        self.address = str(where)
        self._name = where.place
        self._timeouts = timeouts
        self._limits = limits
        self._locks = locks
        self._control = control
        self._epoch = epoch
        self._patience = patience(timeouts)
        self.poller = _ring.Poller(control, segment.BELL, segment.JOINS, *self._patience)
        self._links: dict[int, ShmLink] = {}  # by slot
        self._owners: dict[int, int] = {}  # user ids, by slot
        self._silent: dict[int, float] = {}  # slots from which nothing came yet, and since when
        self._beats: dict[int, tuple[int, float]] = {}  # the last heartbeat of those without locks, and when it came
        self._claims: dict[int, float] = {}  # slots that were claimed without a lock, and since when
        self._ended: deque[tuple[int, ShmLink]] = deque()  # to be swept up by the thread that listens
        self._gone: list[Link] = []
        self._looked = 0.0
        self._open = True

    def recv(self, timeout: float) -> tuple[Link, Frame] | None:
        now = time.monotonic()
        deadline, left = now + timeout, timeout
        while self._open:
            if now - self._looked > LOOK:
                self._look(now)
            if self._ended:
                self._sweep()
            record = self.poller.recv(left if left < SLICE else SLICE)
            if record is not None and (found := self.handle(*record)) is not None:
                return found
            now = time.monotonic()
            if (left := deadline - now) <= 0:
                if record is None or left < -SLICE:  # pieces may come for ever
                    return None
                left = 0.0
        raise LinkClosed(f"the listener at {self.address} was closed")

    def slot(self, link: Link) -> int | None:
        """What the poller calls a client."""
        return next((slot for slot, one in self._links.items() if one is link), None)

    def handle(self, slot: int, kind: int, offset: int, length: int, total: int, end: int) -> tuple[Link, Frame] | None:
        """Does what a record of the poller asks for; the frame and its client, where it completes one."""
        if kind == JOINED:
            self._admit()
            return None
        self._silent.pop(slot, None)
        link = self._links.get(slot)
        if link is None or link.why:
            return None  # it ended just now
        if kind in (CLOSED, BROKEN):
            link.over(f"{link.peer} closed the link" if kind == CLOSED else f"{link.peer} broke the ring")
            return None
        try:
            frame = link.take(kind, offset, length, total, end)
        except FrameError:
            return None
        return None if frame is None else (link, frame)

    def _admit(self) -> None:
        for slot in range(self._limits.clients):
            if _ring.load32(self._control, self._at(slot)) == segment.OFFERED and slot not in self._links:
                try:
                    self._accept(slot)
                except (LinkError, OSError):
                    _ring.store32(self._control, self._at(slot), segment.REFUSED)

    def _at(self, slot: int) -> int:
        return segment.FIRST_SLOT + slot * segment.SLOT

    def _accept(self, slot: int) -> None:
        """Maps a client's file. Its numbers are read once, and only their copies are used."""
        at, control = self._at(slot), self._control
        number = _ring.load64(control, at + segment.SLOT_NAME)
        up, down = (_ring.load64(control, at + word) for word in (segment.SLOT_UP, segment.SLOT_DOWN))
        flags, pid = (_ring.load32(control, at + word) for word in (segment.SLOT_FLAGS, segment.SLOT_PID))
        if any(not MIN_RING <= size <= self._limits.max_ring or size % segment.PAGE for size in (up, down)):
            raise LinkError("a ring of a size that isn't allowed")
        path = segment.ring_path(self._name, number)
        descriptor = segment.open_file(path)
        try:
            owner = os.fstat(descriptor).st_uid
            if sum(other == owner for other in self._owners.values()) >= self._limits.each:
                raise LinkError("one user has as many clients as it may")
            memory = segment.map_file(descriptor, segment.ring_bytes(up, down), populate=False)  # others are waiting
        finally:
            os.close(descriptor)
            path.unlink(missing_ok=True)  # both sides have it mapped: nothing is left when they die
        spin, naps = self._patience
        if not flags & segment.FUTEXES:  # it can't wake this side, which must look by itself
            naps = self.poller.naps = True
        base = segment.PAGE + up
        receiver = _ring.Receiver(memory, 0, up, self._epoch, control, segment.BELL, spin, naps)
        sender = _ring.Sender(memory, base, down, self._epoch, memory, base + DATA_BELL, spin, naps)

        def alive() -> bool:
            # One that closed is there until it was read to its end.
            there = self._locks.taken(1 + slot) if flags & segment.LOCKS else self._beating(slot)
            return self._open and (there or _ring.load32(memory, SENDER_CLOSED) != 0)

        def ended(link: ShmLink) -> None:
            self._ended.append((slot, link))

        peer = f"the client with process id {pid}"
        self._links[slot] = ShmLink(
            self.address, peer, self._timeouts, self._limits, memory, sender, receiver, 0, base, alive, ended
        )
        self._owners[slot] = owner
        self._silent[slot] = time.monotonic()
        self._beats.pop(slot, None)
        self.poller.add(slot, receiver)
        _ring.store32(control, at, segment.ACCEPTED)

    def _look(self, now: float) -> None:
        """Finds clients that died."""
        self._looked = now
        for slot, link in list(self._links.items()):
            if not link.why and not link.alive():
                link.over(f"{link.peer} died")
            elif not link.why and now - self._silent.get(slot, now) > self._timeouts.first:
                link.over(f"{link.peer} said nothing")
        self._admit()  # one that died between its offer and the bell
        for slot in range(self._limits.clients):
            state = _ring.load32(self._control, self._at(slot))
            if slot in self._links or state != segment.UNLOCKED:
                self._claims.pop(slot, None)
            elif now - self._claims.setdefault(slot, now) > segment.SILENCE:
                self._free(slot, state)
            if slot in self._links or state == segment.FREE:
                continue
            if state in (segment.CLAIMED, segment.ACCEPTED, segment.REFUSED) and not self._locks.taken(1 + slot):
                self._free(slot, state)

    def _free(self, slot: int, state: int) -> None:
        """Frees a slot that a dead client left, and removes the file that it may have made."""
        number = _ring.load64(self._control, self._at(slot) + segment.SLOT_NAME)
        if _ring.compare_exchange(self._control, self._at(slot), state, segment.FREE):
            with contextlib.suppress(OSError):
                segment.ring_path(self._name, number).unlink()

    def _beating(self, slot: int) -> bool:
        """A client without locks was alive not long ago."""
        beat, now = _ring.load32(self._control, self._at(slot) + segment.SLOT_BEATS), time.monotonic()
        if (last := self._beats.get(slot)) is None or last[0] != beat:
            last = self._beats[slot] = beat, now
        return now - last[1] <= segment.SILENCE

    def pause(self, link: Link, paused: bool) -> None:
        """What a client that is paused sends stays in its ring."""
        if (slot := self.slot(link)) is not None:
            self.poller.pause(slot, paused)

    def _sweep(self) -> None:
        while self._ended:
            slot, link = self._ended.popleft()
            if self._links.get(slot) is link:
                del self._links[slot]
                for known in (self._owners, self._silent, self._beats):
                    known.pop(slot, None)
                self.poller.remove(slot)
                _ring.store32(self._control, self._at(slot), segment.FREE)
                self._gone.append(link)

    def gone(self) -> list[Link]:
        if self._open and (now := time.monotonic()) - self._looked > LOOK:
            self._look(now)
        self._sweep()
        found, self._gone = self._gone, []
        return found

    def expect(self, keys: Collection[bytes]) -> None:
        """Who connects here has no key."""

    def stay_awake(self, seconds: float) -> None:
        self.poller.spin = seconds if usable_cores() > 1 else 0.0

    def close(self) -> None:
        if not self._open:
            return
        for link in list(self._links.values()):
            link.close()
        self._sweep()
        self._open = False
        _ring.store32(self._control, segment.STATE, segment.SHUT)
        with contextlib.suppress(OSError):
            segment.control_path(self._name).unlink()
        segment.remove_rings(self._name)
        self._locks.let_go()


def listen(where: Address, timeouts: Timeouts, limits: Limits) -> ShmListener:
    name, path = where.place, segment.control_path(where.place)
    while True:
        locks = segment.Locks(segment.open_file(path, os.O_CREAT))
        try:
            held = locks.take(0)
            if held is False:
                raise LinkError(f"{where} is taken: something listens there already")
            if held is None:
                raise LinkError(f"{path.parent} has no file locks, by which a client knows that this side lives")
            status = os.fstat(locks.descriptor)
            with contextlib.suppress(FileNotFoundError):
                # Another listener may have removed the file, and this one holds the lock of what nobody finds.
                if os.path.samestat(status, os.lstat(path)):
                    if status.st_size in (0, segment.CONTROL_BYTES):
                        break
                    path.unlink()  # another version's
        except BaseException:
            locks.let_go()
            raise
        locks.let_go()
    try:
        segment.allocate(locks.descriptor, path, segment.CONTROL_BYTES)
        control = segment.map_file(locks.descriptor, segment.CONTROL_BYTES)
    except BaseException:
        locks.let_go()
        raise
    # A dead listener's clients may still have this mapped: the new epoch tells them.
    segment.remove_rings(name)
    epoch = secrets.randbits(64)
    _ring.store32(control, segment.STATE, 0)
    _ring.store64(control, segment.EPOCH, epoch)
    for slot in range(segment.MAX_SLOTS):
        _ring.store32(control, segment.FIRST_SLOT + slot * segment.SLOT, segment.FREE)
    _ring.store64(control, 0, segment.MAGIC)
    _ring.store32(control, segment.SLOTS, limits.clients)
    _ring.store32(control, segment.STATE, segment.OPEN)
    return ShmListener(where, timeouts, limits, locks, control, epoch)
