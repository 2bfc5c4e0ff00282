"""Directories that last as long as a run, and no longer than the next one where a run was killed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from cutset.batches.folder_lock import FolderLock
from cutset.errors import ConfigError

__all__ = ["RunFolder"]

PREFIX, LOCK = "cutset-", ".run"
NAME = re.compile(rf"{PREFIX}[a-z0-9_]{{8}}")  # as tempfile makes them


class RunFolder:
    """A new directory for this process alone, `path` (mode 0700). It is locked until this process ends, however it
    does: the next one that is made removes those of this user whose processes are dead. Raises OSError."""

    def __init__(self) -> None:
        _remove_left()
        made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}"))  # a name where nobody looks until it is locked
        try:
            self._lock = FolderLock(made / LOCK, f"{made} is another process's")
            self.path = made.with_name(made.name[1:])
            made.rename(self.path)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise

    def close(self) -> None:
        """Removes it. A second call does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _remove_left() -> None:
    for path in Path(tempfile.gettempdir()).iterdir():
        if not NAME.fullmatch(path.name):
            continue
        with contextlib.suppress(OSError, ConfigError):  # it is another user's, or in use
            if path.lstat().st_uid == os.getuid() and (path / LOCK).is_file():
                lock = FolderLock(path / LOCK, f"{path} is in use")
                shutil.rmtree(path, ignore_errors=True)
                lock.close()
