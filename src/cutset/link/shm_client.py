"""The client's way to a listener in shared memory: it claims a slot and offers a file with two rings."""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import threading
import time
from collections.abc import Callable

from cutset.errors import LinkClosed, LinkError
from cutset.link import segment
from cutset.link.addresses import Address
from cutset.link.limits import Limits, Timeouts
from cutset.link.shm import DATA_BELL, ShmLink, patience
from cutset.link.shm import extension as _ring

__all__ = ["connect"]

RETRY = 0.02  # seconds between two tries


def connect(where: Address, timeouts: Timeouts, limits: Limits) -> ShmLink:
    deadline = time.monotonic() + timeouts.connect
    while True:
        try:
            found = _dial(where, timeouts, limits)
        except FileNotFoundError:
            found = None
        if found is not None:
            return found
        if time.monotonic() >= deadline:
            raise LinkClosed(f"nobody listens at {where}: start the other side first, and as the same user")
        time.sleep(RETRY)


def _dial(where: Address, timeouts: Timeouts, limits: Limits) -> ShmLink | None:
    """A link, or None when nobody listens."""
    locks = segment.Locks(segment.open_file(segment.control_path(where.place)))
    try:
        if os.fstat(locks.descriptor).st_size == 0:  # a listener begins at this moment
            locks.let_go()
            return None
        control = segment.map_file(locks.descriptor, segment.CONTROL_BYTES)
        magic = _ring.load64(control, 0)
        if magic == 0:  # the same, a moment later
            locks.let_go()
            return None
        if magic != segment.MAGIC:
            raise LinkError(f"{where} isn't a listener's, or one of another version of Cutset")
        epoch = _ring.load64(control, segment.EPOCH)
        if _ring.load32(control, segment.STATE) != segment.OPEN or not locks.taken(0):
            locks.let_go()
            return None
        link = _claim(where, timeouts, limits, locks, control, epoch)
    except BaseException:
        locks.let_go()
        raise
    return link


def _claim(
    where: Address, timeouts: Timeouts, limits: Limits, locks: segment.Locks, control: mmap.mmap, epoch: int
) -> ShmLink:
    slots = min(_ring.load32(control, segment.SLOTS), segment.MAX_SLOTS)
    for index in range(slots):
        slot, locked = segment.FIRST_SLOT + index * segment.SLOT, locks.take(1 + index)
        wanted = segment.CLAIMED if locked else segment.UNLOCKED
        if locked is not False and _ring.compare_exchange(control, slot, segment.FREE, wanted):
            break
        locks.give(1 + index)
    else:
        raise LinkClosed(f"{where} has as many clients as it takes, {slots}")
    spin, naps = patience(timeouts)
    up = down = -(-limits.ring // segment.PAGE) * segment.PAGE
    number = secrets.randbits(64)
    path = segment.ring_path(where.place, number)
    try:
        memory = segment.create(path, segment.ring_bytes(up, down))
    except BaseException:
        _ring.store32(control, slot, segment.FREE)
        raise
    _ring.store64(control, slot + segment.SLOT_NAME, number)
    sender = _ring.Sender(memory, 0, up, epoch, control, segment.BELL, spin, naps)
    base = segment.PAGE + up
    receiver = _ring.Receiver(memory, base, down, epoch, memory, base + DATA_BELL, spin, naps)
    flags = (segment.LOCKS if locked else 0) | (0 if naps else segment.FUTEXES)
    for offset, value in ((segment.SLOT_UP, up), (segment.SLOT_DOWN, down)):
        _ring.store64(control, slot + offset, value)
    _ring.store32(control, slot + segment.SLOT_PID, os.getpid())
    _ring.store32(control, slot + segment.SLOT_FLAGS, flags)
    if not _ring.compare_exchange(control, slot, wanted, segment.OFFERED):
        path.unlink(missing_ok=True)
        raise LinkClosed(f"{where} waited no longer for this client, which took long to begin: try again")
    _ring.fetch_add(control, segment.JOINS, 1)
    _ring.ring_bell(control, segment.BELL)

    def alive() -> bool:
        same = _ring.load64(control, segment.EPOCH) == epoch and _ring.load32(control, segment.STATE) == segment.OPEN
        return same and locks.taken(0) and mine()

    def mine() -> bool:
        return _ring.load64(control, slot + segment.SLOT_NAME) == number and _ring.load32(control, slot) in (
            segment.OFFERED,
            segment.ACCEPTED,
        )

    stopped = threading.Event()
    if not locked:  # nobody else can tell that this process lives
        threading.Thread(target=_beat, args=(control, slot, mine, stopped), name="cutset-beat", daemon=True).start()

    def ended(link: ShmLink) -> None:
        stopped.set()
        if not alive():  # else the listener removes the file, when it has read what is in there
            with contextlib.suppress(OSError):
                path.unlink()
        locks.let_go()

    text = str(where)
    return ShmLink(text, text, timeouts, limits, memory, sender, receiver, base, 0, alive, ended)


def _beat(control: mmap.mmap, slot: int, mine: Callable[[], bool], stopped: threading.Event) -> None:
    """Heartbeats, for as long as the slot is this client's and its link lasts."""
    while mine() and not stopped.wait(segment.BEAT):
        _ring.fetch_add(control, slot + segment.SLOT_BEATS, 1)
