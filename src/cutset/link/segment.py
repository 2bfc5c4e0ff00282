"""The files behind shared memory: one that a listener controls, and one for each client's two rings.

Plain files that are mapped, in /dev/shm or where CUTSET_SHM_DIR says. Nobody but their owner may open them. That a
party lives is known by a lock on one byte of the control file, which the kernel lets go when the party dies; where
there are no such locks (in an enclave), only by its silence. docs/protocol.md has every word of the layout.
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

__all__ = ["Locks", "control_path", "create", "directory", "map_file", "open_file", "remove_rings", "ring_path"]

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
FREE, CLAIMED, OFFERED, ACCEPTED, REFUSED, UNLOCKED = range(6)  # UNLOCKED: claimed by a client without locks
LOCKS, FUTEXES = 1, 2  # flags: what the client can do
BEAT = 0.25  # seconds between two heartbeats of a client without locks
SILENCE = 5.0  # seconds without one, after which it is dead; also how long a claimed slot may wait for its offer

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
    return directory() / f"cutset-{name}.ctl"


def ring_path(name: str, number: int) -> Path:
    return directory() / f"cutset-{name}-{number:016x}.ring"


def ring_bytes(up: int, down: int) -> int:
    """Bytes of a file with rings of these capacities; the second one begins at `PAGE + up`."""
    return 2 * PAGE + up + down


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


def allocate(descriptor: int, path: Path, nbytes: int) -> None:
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
        if error.errno == errno.ENOSPC:
            raise LinkError(
                f"{path.parent} has no room for {nbytes >> 20} MiB: free some, or set a smaller Limits.ring"
            ) from None
        raise LinkError(f"{path} can't be made {nbytes} bytes long: {error.strerror}") from None


def create(path: Path, nbytes: int) -> mmap.mmap:
    """A new file of zeros, mapped."""
    try:
        descriptor = open_file(path, os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        raise LinkError(f"{path} is there already") from None
    try:
        allocate(descriptor, path, nbytes)
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
