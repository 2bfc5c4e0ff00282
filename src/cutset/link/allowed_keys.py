"""The public keys that may connect, which are read again when their files change: keys rotate and are revoked without a
restart."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Set
from pathlib import Path

from cutset.errors import ConfigError
from cutset.link.keys import load_allowed, read_allowed

__all__ = ["AllowedKeys"]

PERIOD = 0.5  # seconds between two looks at the files

log = logging.getLogger(__name__)
Stamps = tuple[tuple[str, int, int, int], ...]


class AllowedKeys(Set[bytes]):
    """What `load_allowed` finds at a path, and finds there later. Any thread may ask.

    A directory without a key allows nobody from then on. Where the files can't be read any more, or hold something
    else, what was read before stays in force, and that is logged. Raises ConfigError at the start.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path, self._lock = Path(path), threading.Lock()
        self._stamps = _stamps(self._path)
        self._keys = load_allowed(path)
        self._revoked: frozenset[bytes] = frozenset()
        self._next = time.monotonic() + PERIOD

    def __contains__(self, key: object) -> bool:
        self._look()
        return key in self._keys

    def __iter__(self) -> Iterator[bytes]:
        self._look()
        return iter(self._keys)

    def __len__(self) -> int:
        self._look()
        return len(self._keys)

    @property
    def revoked(self) -> frozenset[bytes]:
        """Those that were allowed once and aren't now."""
        self._look()
        return self._revoked

    def _look(self) -> None:
        if time.monotonic() < self._next or not self._lock.acquire(blocking=False):
            return
        try:
            self._next = time.monotonic() + PERIOD
            stamps = _stamps(self._path)
            if stamps == self._stamps:
                return
            self._stamps = stamps
            found = read_allowed(self._path)
            self._revoked = (self._revoked | self._keys) - found
            self._keys = found
            log.info("%s was read again: %d public keys may connect", self._path, len(found))
        except ConfigError as error:
            log.warning("the public keys that were read before stay in force: %s", error)
        finally:
            self._lock.release()


def _stamps(place: Path) -> Stamps:
    """What changes when a file is written, put there or taken away; nothing where nothing can be seen."""
    try:
        files = sorted(place.glob("*.pub")) if place.is_dir() else [place]
        seen = [(path.name, path.stat()) for path in files]
    except OSError:
        return ()
    return tuple((name, found.st_mtime_ns, found.st_size, found.st_ino) for name, found in seen)
