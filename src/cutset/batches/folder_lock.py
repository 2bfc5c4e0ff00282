"""A lock that one process holds at a time, and that the system takes from one that dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from cutset.errors import ConfigError

__all__ = ["FolderLock"]


class FolderLock:
    """Held from its making until `close`, or until this process ends, however it does."""

    def __init__(self, path: Path, taken: str) -> None:
        """Raises ConfigError, which says `taken`, where another one holds it; OSError for a file that can't be made."""
        self._file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise ConfigError(taken) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """A second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
