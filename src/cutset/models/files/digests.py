"""The digests of an integer checkpoint: SHA-256 of every tensor's bytes, in `digests.json` beside it.

Which files had the right digests is remembered, so that a start doesn't hash what hasn't changed since the last one.

A file counts as unchanged while path, device, inode, size, time of change and time of inode change are those that were
there when it was hashed: what git's index does. A file that was touched less than two seconds before is not remembered,
because a second change could have the same times; neither is one whose times lie in the future.

One small JSON file for each checkpoint lies in `cutset/verified` below $XDG_CACHE_HOME (~/.cache). That helps against
damage and mistakes; it is no defence: whoever can write there could as well change the digests. Who can't trust the
file system verifies always.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cutset.errors import CheckpointError
from cutset.files import appearing
from cutset.models.families import read_json
from cutset.models.files.checkpoint import Tensor

__all__ = [
    "DIGESTS",
    "Observation",
    "authenticated",
    "digest",
    "digest_of_files",
    "observe",
    "remember",
    "remembered",
    "verify_digests",
]

DIGESTS = "digests.json"
SETTLED_NS = 2_000_000_000
MOST_BYTES = 1 << 20
_authenticated: set[Path] = set()


@contextlib.contextmanager
def authenticated(directory: Path) -> Iterator[None]:
    """While this lasts, digests of the checkpoint in a directory aren't compared. Its files lie in memory that nobody
    can change, every byte of them has just been authenticated, and they had the right digests when that was written."""
    place = directory.resolve()
    _authenticated.add(place)
    try:
        yield
    finally:
        _authenticated.discard(place)


def verify_digests(directory: Path, tensors: Mapping[str, Tensor], threads: int, *, always: bool = False) -> None:
    """Compares every tensor with `digests.json`, unless the same files passed before (see `remembered`)
    and `always` is false, or they are `authenticated`. Raises CheckpointError for the first that differs."""
    if directory.resolve() in _authenticated:
        return
    files = {tensor.file for tensor in tensors.values()} | {directory / DIGESTS}
    try:
        seen = observe(sorted(files))
    except OSError as error:
        raise CheckpointError(f"{error.filename} can't be read: {error.strerror}") from None
    if not always and remembered(directory, seen):
        return
    wanted = read_json(directory / DIGESTS)
    if set(wanted) != set(tensors):
        raise CheckpointError(f"{directory / 'digests.json'} doesn't name the tensors of this checkpoint")
    with ThreadPoolExecutor(max(1, threads)) as pool:  # hashing leaves the interpreter free
        names = list(tensors)
        for name, found in zip(names, pool.map(lambda name: digest(tensors[name].raw), names), strict=True):
            if found != wanted[name]:
                raise CheckpointError(f"{tensors[name].file}: the digest of {name} doesn't match: the file was changed")
    for tensor in tensors.values():
        tensor.forget()  # what isn't used needn't stay in memory
    remember(directory, seen)


def digest(value: NDArray[Any]) -> str:
    """Of an array's bytes in row-major order, in hexadecimal."""
    array = np.ascontiguousarray(value)
    return hashlib.sha256(array.data.cast("B") if array.size else b"").hexdigest()


class Observation(NamedTuple):
    """What tells files from any others, and from themselves before a change."""

    time_ns: int  # when it was made
    # By resolved path: device, inode, size, times of change and of inode change in nanoseconds.
    files: dict[str, list[int]]

    @property
    def settled(self) -> bool:
        """A change from now on will show in the times."""
        return all(max(values[3:]) < self.time_ns - SETTLED_NS for values in self.files.values())


def observe(files: Iterable[Path]) -> Observation:
    """How files are now. Raises OSError."""
    now, found = time.time_ns(), {}
    for path in files:
        stat = path.stat()
        found[str(path.resolve())] = [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    return Observation(now, found)


def remembered(directory: Path, seen: Observation) -> bool:
    """These very files of a checkpoint had the right digests. False for whatever isn't certain."""
    try:
        with _place(directory).open("rb") as file:
            if os.fstat(file.fileno()).st_uid != os.getuid():
                return False
            return bool(json.loads(file.read(MOST_BYTES)) == seen.files)
    except (OSError, ValueError, RecursionError):
        return False


def remember(directory: Path, seen: Observation) -> None:
    """Files that had the right digests; `seen` is from before they were hashed. Does nothing where one may have changed
    since, or could do so unseen, or where nothing can be written."""
    if not seen.settled:
        return
    with contextlib.suppress(OSError):
        if observe(map(Path, seen.files)).files != seen.files:
            return
        place = _place(directory)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with appearing(place) as file:
            file.write(json.dumps(seen.files).encode())


def digest_of_files(about: Path, files: Iterable[Path], *, always: bool = False) -> str:
    """Of the contents of files, in the order of their names, in hexadecimal. It is remembered for `about`, so that the
    same files needn't be read again unless `always`. Raises CheckpointError where one can't be read."""
    paths = sorted(files)
    place = _place(about / "contents")
    try:
        seen = observe(paths)
        with contextlib.suppress(OSError, ValueError, RecursionError, TypeError, KeyError):
            with place.open("rb") as file:
                own = os.fstat(file.fileno()).st_uid == os.getuid()
                known = json.loads(file.read(MOST_BYTES))
            if own and not always and known["files"] == seen.files:
                return str(known["digest"])
        whole = hashlib.sha256()
        for path in paths:
            with path.open("rb") as file:
                whole.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
        still = observe(paths).files == seen.files
    except OSError as error:
        raise CheckpointError(f"{error.filename} can't be read: {error.strerror}") from None
    if seen.settled and still:
        with contextlib.suppress(OSError):
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with appearing(place) as file:
                file.write(json.dumps({"files": seen.files, "digest": whole.hexdigest()}).encode())
    return whole.hexdigest()


def _place(directory: Path) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:32]
    return Path(home) / "cutset" / "verified" / f"{name}.json"
