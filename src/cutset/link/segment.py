"""The memory that parties share: one piece that a listener controls, and one for each client's two rings.

Memory without a name (memfd), sealed so that nobody can make it shorter: reading beyond the end of a mapped file ends a
process. Its descriptors go over a socket (shm_handshake.py), to users whom the other side named. A client in an enclave
can't be handed descriptors; for it alone there are plain files instead, in /dev/shm or where CUTSET_SHM_DIR says, which
nobody but their owner may open. docs/protocol.md has every word of the layout.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
import struct
from pathlib import Path

from cutset.errors import ConfigError, LinkError
from cutset.link.limits import Limits

__all__ = [
    "Locks",
    "capacity",
    "control_path",
    "create",
    "create_sealed",
    "directory",
    "map_file",
    "map_sealed",
    "open_file",
    "remove_rings",
    "ring_path",
    "socket_path",
]

MAGIC = int.from_bytes(b"cutsetR1", "little")
PAGE = 4096
MAX_SLOTS = 1024

# The control file: offsets of its words.
EPOCH = 8
STATE = 16
SLOTS = 20
BELL = 64
JOINS = 128
FIRST_SLOT = 256
SLOT = 64
CONTROL_BYTES = (FIRST_SLOT + SLOT * MAX_SLOTS + PAGE - 1) // PAGE * PAGE
OPEN, SHUT = 1, 2

# A slot's words.
SLOT_STATE, SLOT_FLAGS, SLOT_NAME, SLOT_UP, SLOT_DOWN, SLOT_PID, SLOT_BEATS = 0, 4, 8, 16, 24, 32, 36
FREE, CLAIMED, OFFERED, ACCEPTED, REFUSED = range(5)
FUTEXES = 2  # a flag: the client can wake others, and be woken
BEAT = 0.25  # seconds between two heartbeats of a client in an enclave, of which nothing else tells that it lives
SILENCE = 5.0  # seconds without one, after which it is dead; also how long a claimed slot may wait for its offer

# What keeps memory as long as it is. Seals can't be taken off again; writing stays allowed.
SEALS = ("F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_SEAL")

FLOCK = struct.Struct("hhqqi4x")


def directory() -> Path:
    """Where the files are. Raises ConfigError when that isn't a directory."""
    place = Path(os.environ.get("CUTSET_SHM_DIR") or "/dev/shm")
    if not place.is_dir():
        raise ConfigError(f"shared memory needs a directory, and {place} isn't one: set CUTSET_SHM_DIR to another")
    return place


def in_enclave() -> bool:
    """Whether this runs in Gramine: futexes and locks don't reach other processes, and owners of files aren't known."""
    return os.path.exists("/dev/attestation/attestation_type")


def control_path(name: str) -> Path:
    """The file of a listener: its lock, and with ring files its control memory."""
    return directory() / f"cutset-{name}.ctl"


def socket_path(name: str) -> Path:
    """Where a listener hands over its memory."""
    return directory() / f"cutset-{name}.sock"


def ring_path(name: str, number: int) -> Path:
    """The file with a client's rings, where memory can't be handed over."""
    return directory() / f"cutset-{name}-{number:016x}.ring"


def ring_bytes(up: int, down: int) -> int:
    """Bytes of a file with rings of these capacities; the second one begins at `PAGE + up`."""
    return 2 * PAGE + up + down


def capacity(limits: Limits) -> int:
    """Bytes of a ring: whole pages."""
    return -(-limits.ring // PAGE) * PAGE


def remove_rings(name: str) -> None:
    """Removes what dead clients of this name left."""
    for path in directory().glob(f"cutset-{name}-{'[0-9a-f]' * 16}.ring"):
        with contextlib.suppress(OSError):
            path.unlink()


def open_file(path: Path, flags: int = 0) -> int:
    """A descriptor of a file that nobody else can open. Raises FileNotFoundError, and LinkError for anything odd."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | flags, 0o600)
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        raise LinkError(f"{path} can't be opened: {error.strerror}") from None
    status = os.fstat(descriptor)
    owned = in_enclave() or (status.st_uid == os.geteuid() and not status.st_mode & 0o077)
    if not stat.S_ISREG(status.st_mode) or not owned:
        os.close(descriptor)
        raise LinkError(f"{path} isn't a file that belongs to this user alone: remove it, or choose another name")
    return descriptor


def allocate(descriptor: int, place: str, nbytes: int) -> None:
    """Makes the file that large, with memory behind it: a full disk is an error now and no signal later."""
    try:
        try:
            os.posix_fallocate(descriptor, 0, nbytes)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                raise
            for start in range(os.fstat(descriptor).st_size, nbytes, 1 << 20):
                os.pwrite(descriptor, bytes(min(1 << 20, nbytes - start)), start)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.ENOMEM):
            raise LinkError(
                f"{place} has no room for {nbytes >> 20} MiB: free some, or set a smaller Limits.ring"
            ) from None
        raise LinkError(f"{place}: {nbytes} bytes can't be had: {error.strerror}") from None


def create(path: Path, nbytes: int) -> mmap.mmap:
    """A new file of zeros, mapped."""
    try:
        descriptor = open_file(path, os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        raise LinkError(f"{path} is there already") from None
    try:
        allocate(descriptor, str(path.parent), nbytes)
        return map_file(descriptor, nbytes)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def map_file(descriptor: int, nbytes: int, populate: bool = True) -> mmap.mmap:
    """The file's memory, shared; `populate`: all of it at once, which takes a while. Raises LinkError when the file has
    another size."""
    if os.fstat(descriptor).st_size != nbytes:
        raise LinkError("a file of shared memory has the wrong size: the other side is another version of Cutset")
    return mmap.mmap(descriptor, nbytes, flags=mmap.MAP_SHARED | (getattr(mmap, "MAP_POPULATE", 0) if populate else 0))


def create_sealed(nbytes: int) -> tuple[int, mmap.mmap]:
    """New memory of zeros that keeps its size: its descriptor, to be handed on and closed, and the memory itself."""
    if not hasattr(os, "memfd_create"):
        raise LinkError("shared memory needs Linux: use ipc:// or tcp://")
    descriptor = os.memfd_create("cutset", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        allocate(descriptor, "memory", nbytes)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _seals())
        return descriptor, map_file(descriptor, nbytes)
    except BaseException:
        os.close(descriptor)
        raise


def map_sealed(descriptor: int, nbytes: int, populate: bool = True) -> mmap.mmap:
    """Memory that another process made. Raises LinkError for what could be cut short while it is used here, and for
    another size."""
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:  # a file, a socket: whatever has no seals
        seals = 0
    # Pages of huge memory may be missing when they are touched, which would end this process too.
    if seals & _seals() != _seals() or os.fstatvfs(descriptor).f_bsize != mmap.PAGESIZE:
        raise LinkError("the other side handed over memory that isn't sealed: it could end this process")
    try:
        return map_file(descriptor, nbytes, populate)
    except OSError as error:  # sealed against writing, say
        raise LinkError(f"the other side's memory can't be mapped: {error.strerror}") from None


def _seals() -> int:
    found = 0
    for name in SEALS:
        found |= getattr(fcntl, name)
    return found


class Locks:
    """Locks on single bytes of one file. They belong to the open file, so threads of one process exclude each other."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._held: set[int] = set()

    def take(self, byte: int) -> bool | None:
        """False when someone else has it, None where there are no such locks."""
        if not hasattr(fcntl, "F_OFD_SETLK"):
            return None
        try:
            fcntl.fcntl(self.descriptor, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
        except OSError as error:
            return False if error.errno in (errno.EAGAIN, errno.EACCES) else None
        self._held.add(byte)
        return True

    def taken(self, byte: int) -> bool:
        """Someone else has it, or that can't be known."""
        try:
            request = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
            answer = fcntl.fcntl(self.descriptor, fcntl.F_OFD_GETLK, request)
        except (OSError, AttributeError, ValueError):  # a ValueError: another thread closed the file
            return self.descriptor >= 0
        return bool(FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def give(self, byte: int) -> None:
        if byte in self._held:
            self._held.remove(byte)
            with contextlib.suppress(OSError):
                fcntl.fcntl(self.descriptor, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, byte, 1, 0))

    def let_go(self) -> None:
        """Unlocks everything and closes the file. The memory's own descriptor stays, so closing alone isn't enough."""
        for byte in list(self._held):
            self.give(byte)
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
