"""The listener of shared memory: control memory with one bell for all clients, and an acceptor for them."""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import time
from collections import deque
from collections.abc import Collection

from cutset.config import usable_cores
from cutset.errors import ConfigError, FrameError, LinkClosed, LinkError
from cutset.link import segment
from cutset.link.addresses import Address
from cutset.link.frames import Frame
from cutset.link.interface import Link, Record, RingListener
from cutset.link.limits import Limits, Timeouts
from cutset.link.shm import DATA_BELL, SLICE, ShmLink, patience, ring
from cutset.link.shm_acceptor import Acceptor, NewClient, SocketAcceptor
from cutset.link.shm_files import FileAcceptor
from cutset.link.users import own

__all__ = ["listen"]

SENDER_CLOSED = 8  # offset in the words of the ring that the client sends on
CLOSED, BROKEN, JOINED = ring.CLOSED, ring.BROKEN, ring.JOINED
LOOK = 0.25  # seconds between two looks whether clients live


class ShmListener(RingListener):
    """See RingListener. Clients are known by their slots."""

    def __init__(
        self,
        where: Address,
        timeouts: Timeouts,
        limits: Limits,
        locks: segment.Locks,
        control: mmap.mmap,
        epoch: int,
        acceptor: Acceptor,
    ) -> None:
        self._address = str(where)
        self._name = where.place
        self._timeouts = timeouts
        self._limits = limits
        self._locks = locks
        self._control = control
        self._epoch = epoch
        self._acceptor = acceptor
        self._patience = patience(timeouts)
        self._poller = ring.Poller(control, segment.BELL, segment.JOINS, *self._patience)
        self._links: dict[int, ShmLink] = {}  # by slot
        self._silent: dict[int, float] = {}  # slots from which nothing came yet, and since when
        self._ended: deque[tuple[int, ShmLink]] = deque()  # to be swept up by the thread that listens
        self._gone: list[Link] = []
        self._looked = 0.0
        self._open = True

    @property
    def address(self) -> str:
        return self._address

    @property
    def poller(self) -> ring.Poller:
        return self._poller

    def recv(self, timeout: float) -> tuple[Link, Frame] | None:
        now = time.monotonic()
        deadline, left = now + timeout, timeout
        while self._open:
            if now - self._looked > LOOK:
                self._look(now)
            if self._ended:
                self._sweep()
            came = self._poller.recv(left if left < SLICE else SLICE)
            if came is not None and (found := self.handle(*came)) is not None:
                return found
            now = time.monotonic()
            if (left := deadline - now) <= 0:
                if came is None or left < -SLICE:  # pieces may come for ever
                    return None
                left = 0.0
        raise LinkClosed(f"the listener at {self.address} was closed")

    def slot(self, link: Link) -> int | None:
        return next((slot for slot, one in self._links.items() if one is link), None)

    def handle(self, slot: int, record: Record) -> tuple[Link, Frame] | None:
        kind = record[0]
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
            frame = link.take(record)
        except FrameError:
            return None
        return None if frame is None else (link, frame)

    def _admit(self) -> None:
        for arrival in self._acceptor.accepted():
            self._accept(arrival)

    def _accept(self, new: NewClient) -> None:
        spin, naps = self._patience
        if not new.futexes:  # it can't wake this side, which must look by itself
            naps = self._poller.naps = True
        slot, memory, control, base = new.slot, new.memory, self._control, segment.PAGE + new.up
        receiver = ring.Receiver(memory, 0, new.up, self._epoch, control, segment.BELL, spin, naps)
        sender = ring.Sender(memory, base, new.down, self._epoch, memory, base + DATA_BELL, spin, naps)

        def alive() -> bool:
            # One that closed is there until it was read to its end.
            return self._open and (new.alive() or ring.load32(memory, SENDER_CLOSED) != 0)

        def ended(link: ShmLink) -> None:
            self._ended.append((slot, link))

        self._links[slot] = ShmLink(
            self.address,
            new.peer,
            self._timeouts,
            self._limits,
            memory,
            sender,
            receiver,
            0,
            base,
            alive,
            ended,
            new.user,
        )
        self._silent[slot] = time.monotonic()
        self._poller.add(slot, receiver)

    def _look(self, now: float) -> None:
        """Finds clients that died, and those of whose coming the shared memory doesn't tell."""
        self._looked = now
        for slot, link in list(self._links.items()):
            if not link.why and not link.alive():
                link.over(f"{link.peer} died")
            elif not link.why and now - self._silent.get(slot, now) > self._timeouts.first:
                link.over(f"{link.peer} said nothing")
        self._acceptor.check(now)
        self._admit()

    def pause(self, link: Link, paused: bool) -> None:
        if (slot := self.slot(link)) is not None:
            self._poller.pause(slot, paused)

    def _sweep(self) -> None:
        while self._ended:
            slot, link = self._ended.popleft()
            if self._links.get(slot) is link:
                del self._links[slot]
                self._silent.pop(slot, None)
                self._poller.remove(slot)
                self._acceptor.release(slot)
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
        self._poller.spin = seconds if usable_cores() > 1 else 0.0

    def close(self) -> None:
        if not self._open:
            return
        for link in list(self._links.values()):
            link.close()
        self._sweep()
        self._open = False
        ring.store32(self._control, segment.STATE, segment.SHUT)
        self._acceptor.close()
        with contextlib.suppress(OSError):
            segment.control_path(self._name).unlink()
        self._locks.let_go()


def listen(
    where: Address, timeouts: Timeouts, limits: Limits, users: Collection[int] = (), files: bool = False
) -> ShmListener:
    """`users`: who may connect, by id; nobody named: this process's own user. `files`: for clients in an enclave, who
    can't be handed memory, and for no others."""
    if where.user:
        raise ConfigError(f"{where}: a listener's address names no user: write shm://{where.place}")
    if files and set(users) - {own()}:
        raise ConfigError("ring files are for clients in an enclave that run as this user: allow no others")
    locks = _only_one(where, files)
    # A dead listener's clients may still have its memory: the new epoch tells them.
    epoch = secrets.randbits(64)
    try:
        control, acceptor = (
            _with_files(where, limits, locks, epoch) if files else _with_memory(where, limits, users, epoch)
        )
    except BaseException:
        locks.let_go()
        raise
    return ShmListener(where, timeouts, limits, locks, control, epoch, acceptor)


def _only_one(where: Address, files: bool) -> segment.Locks:
    """The lock that says that somebody listens here. Raises LinkError where another one has it."""
    path = segment.control_path(where.place)
    sizes = (0, segment.CONTROL_BYTES) if files else (0,)
    while True:
        locks = segment.Locks(segment.open_file(path, os.O_CREAT))
        try:
            held = locks.take(0)
            if held is False:
                raise LinkError(f"{where} is taken: something listens there already")
            if held is None:
                raise LinkError(f"{path.parent} has no file locks, by which others know that this side lives")
            status = os.fstat(locks.descriptor)
            with contextlib.suppress(FileNotFoundError):
                # Another listener may have removed the file, and this one holds the lock of what nobody finds.
                if os.path.samestat(status, os.lstat(path)):
                    if status.st_size in sizes:
                        return locks
                    path.unlink()  # another version's, or another kind's
        except BaseException:
            locks.let_go()
            raise
        locks.let_go()


def _with_memory(where: Address, limits: Limits, users: Collection[int], epoch: int) -> tuple[mmap.mmap, Acceptor]:
    descriptor, control = segment.create_sealed(segment.CONTROL_BYTES)
    try:
        _begin(control, epoch, limits)

        def wake() -> None:
            ring.fetch_add(control, segment.JOINS, 1)
            ring.ring_bell(control, segment.BELL)

        return control, SocketAcceptor(
            segment.socket_path(where.place), descriptor, epoch, limits, users or {own()}, wake
        )
    except BaseException:
        os.close(descriptor)
        raise


def _with_files(where: Address, limits: Limits, locks: segment.Locks, epoch: int) -> tuple[mmap.mmap, Acceptor]:
    segment.allocate(locks.descriptor, str(segment.directory()), segment.CONTROL_BYTES)
    control = segment.map_file(locks.descriptor, segment.CONTROL_BYTES)
    segment.remove_rings(where.place)
    _begin(control, epoch, limits)
    return control, FileAcceptor(where.place, control, limits)


def _begin(control: mmap.mmap, epoch: int, limits: Limits) -> None:
    ring.store32(control, segment.STATE, 0)
    ring.store64(control, segment.EPOCH, epoch)
    for slot in range(segment.MAX_SLOTS):
        ring.store32(control, segment.FIRST_SLOT + slot * segment.SLOT, segment.FREE)
    ring.store64(control, 0, segment.MAGIC)
    ring.store32(control, segment.SLOTS, limits.clients)
    ring.store32(control, segment.STATE, segment.OPEN)
