"""Shared memory for a client in an enclave, which can be handed no descriptors: plain files, and slots to claim.

Both ends. The files belong to one user. Whoever can open one can cut it short, which ends the process at the other end
when it next looks there: an enclave's host may do worse, and nobody else is let in (mode 0600).
"""

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
from cutset.link.shm import DATA_BELL, ShmLink, patience, ring
from cutset.link.shm_acceptor import NewClient, check_sizes

__all__ = ["FileAcceptor", "dial"]


class FileAcceptor:
    """Clients that offer a file in a slot of the control memory."""

    def __init__(self, name: str, control: mmap.mmap, limits: Limits) -> None:
        self._name, self._control, self._limits = name, control, limits
        self._taken: set[int] = set()
        self._idle: dict[int, float] = {}  # slots that are claimed or refused: since when
        self._beats: dict[int, tuple[int, float]] = {}  # the last heartbeat of a client, and when it came

    def accepted(self) -> list[NewClient]:
        """Clients that came since the last call."""
        found = []
        for slot in range(self._limits.clients):
            if slot not in self._taken and self._state(slot) == segment.OFFERED:
                try:
                    found.append(self._map(slot))
                    self._taken.add(slot)
                    self._set(slot, segment.ACCEPTED)
                except (LinkError, OSError):
                    self._set(slot, segment.REFUSED)
        return found

    def _map(self, slot: int) -> NewClient:
        """Maps a client's file. Its numbers are read once, and only their copies are used."""
        at, control = self._at(slot), self._control
        number = ring.load64(control, at + segment.SLOT_NAME)
        up, down = (ring.load64(control, at + word) for word in (segment.SLOT_UP, segment.SLOT_DOWN))
        flags, pid = (ring.load32(control, at + word) for word in (segment.SLOT_FLAGS, segment.SLOT_PID))
        check_sizes(up, down, self._limits)
        if len(self._taken) >= self._limits.each:  # all of them are this user's
            raise LinkError("one user has as many clients as it may")
        path = segment.ring_path(self._name, number)
        descriptor = segment.open_file(path)
        try:
            memory = segment.map_file(descriptor, segment.ring_bytes(up, down), populate=False)  # others wait
        finally:
            os.close(descriptor)
            path.unlink(missing_ok=True)  # both sides have it mapped: nothing is left when they die
        peer = f"the client with process id {pid}"
        return NewClient(slot, memory, up, down, bool(flags & segment.FUTEXES), peer, None, lambda: self._beating(slot))

    def release(self, slot: int) -> None:
        """Frees the slot of a client that has gone."""
        self._taken.discard(slot)
        self._beats.pop(slot, None)
        self._set(slot, segment.FREE)

    def check(self, now: float) -> None:
        """Frees slots that dead clients left."""
        for slot in set(range(self._limits.clients)) - self._taken:
            if (state := self._state(slot)) == segment.FREE:
                self._idle.pop(slot, None)
            elif now - self._idle.setdefault(slot, now) > segment.SILENCE:
                self._free(slot, state)

    def _free(self, slot: int, state: int) -> None:
        """Frees a slot that a dead client left, and removes the file that it may have made."""
        number = ring.load64(self._control, self._at(slot) + segment.SLOT_NAME)
        if ring.compare_exchange(self._control, self._at(slot), state, segment.FREE):
            with contextlib.suppress(OSError):
                segment.ring_path(self._name, number).unlink()

    def _beating(self, slot: int) -> bool:
        """The client of this slot was alive not long ago."""
        beat, now = ring.load32(self._control, self._at(slot) + segment.SLOT_BEATS), time.monotonic()
        if (last := self._beats.get(slot)) is None or last[0] != beat:
            last = self._beats[slot] = beat, now
        return now - last[1] <= segment.SILENCE

    def close(self) -> None:
        """Removes the files of all rings."""
        segment.remove_rings(self._name)

    def _at(self, slot: int) -> int:
        return segment.FIRST_SLOT + slot * segment.SLOT

    def _state(self, slot: int) -> int:
        return int(ring.load32(self._control, self._at(slot)))

    def _set(self, slot: int, state: int) -> None:
        ring.store32(self._control, self._at(slot), state)


def dial(where: Address, timeouts: Timeouts, limits: Limits) -> ShmLink | None:
    """A link, or None when nobody listens. Raises LinkError, and LinkClosed where no slot is free."""
    try:
        descriptor = segment.open_file(segment.control_path(where.place))
    except FileNotFoundError:
        return None
    try:
        if os.fstat(descriptor).st_size == 0:  # a listener begins at this moment, or it has no files
            return None
        control = segment.map_file(descriptor, segment.CONTROL_BYTES)
    finally:
        os.close(descriptor)
    magic = ring.load64(control, 0)
    if magic == 0:  # the same, a moment later
        return None
    if magic != segment.MAGIC:
        raise LinkError(f"{where} isn't a listener's, or one of another version of Cutset")
    epoch = ring.load64(control, segment.EPOCH)
    if ring.load32(control, segment.STATE) != segment.OPEN:
        return None
    return _claim(where, timeouts, limits, control, epoch)


def _claim(where: Address, timeouts: Timeouts, limits: Limits, control: mmap.mmap, epoch: int) -> ShmLink:
    slots = min(ring.load32(control, segment.SLOTS), segment.MAX_SLOTS)
    for index in range(slots):
        slot = segment.FIRST_SLOT + index * segment.SLOT
        if ring.compare_exchange(control, slot, segment.FREE, segment.CLAIMED):
            break
    else:
        raise LinkClosed(f"{where} has as many clients as it takes, {slots}")
    spin, naps = patience(timeouts)
    up = down = segment.capacity(limits)
    number = secrets.randbits(64)
    path = segment.ring_path(where.place, number)
    ring.store64(control, slot + segment.SLOT_NAME, number)
    try:
        memory = segment.create(path, segment.ring_bytes(up, down))
    except BaseException:
        ring.store32(control, slot, segment.FREE)
        raise
    sender = ring.Sender(memory, 0, up, epoch, control, segment.BELL, spin, naps)
    base = segment.PAGE + up
    receiver = ring.Receiver(memory, base, down, epoch, memory, base + DATA_BELL, spin, naps)
    for offset, value in ((segment.SLOT_UP, up), (segment.SLOT_DOWN, down)):
        ring.store64(control, slot + offset, value)
    ring.store32(control, slot + segment.SLOT_PID, os.getpid())
    ring.store32(control, slot + segment.SLOT_FLAGS, 0 if naps else segment.FUTEXES)
    if not ring.compare_exchange(control, slot, segment.CLAIMED, segment.OFFERED):
        path.unlink(missing_ok=True)
        raise LinkClosed(f"{where} waited no longer for this client, which took long to begin: try again")
    ring.fetch_add(control, segment.JOINS, 1)
    ring.ring_bell(control, segment.BELL)
    since = time.monotonic()

    def alive() -> bool:
        """A listener's death shows in its silence alone."""
        same = ring.load64(control, segment.EPOCH) == epoch and ring.load32(control, segment.STATE) == segment.OPEN
        late = ring.load32(control, slot) == segment.OFFERED and time.monotonic() - since > timeouts.connect
        return same and not late and mine()

    def mine() -> bool:
        return ring.load64(control, slot + segment.SLOT_NAME) == number and ring.load32(control, slot) in (
            segment.OFFERED,
            segment.ACCEPTED,
        )

    stopped = threading.Event()
    threading.Thread(target=_beat, args=(control, slot, mine, stopped), name="cutset-beat", daemon=True).start()

    def ended(link: ShmLink) -> None:
        stopped.set()
        if not alive():  # else the listener removes the file, when it has read what is in there
            with contextlib.suppress(OSError):
                path.unlink()

    text = str(where)
    return ShmLink(text, text, timeouts, limits, memory, sender, receiver, base, 0, alive, ended)


def _beat(control: mmap.mmap, slot: int, mine: Callable[[], bool], stopped: threading.Event) -> None:
    """Heartbeats, for as long as the slot is this client's and its link lasts."""
    while mine() and not stopped.wait(segment.BEAT):
        ring.fetch_add(control, slot + segment.SLOT_BEATS, 1)
