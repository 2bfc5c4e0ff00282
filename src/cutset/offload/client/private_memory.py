"""Keeps secrets out of swap and core dumps, and other processes out of this one's memory, as far as the system lets us.

All of it is done where it can be and left where it can't: an unprivileged process may lock a few MiB alone, copies that
Python and libraries make aren't locked, and root reads everything.
"""

from __future__ import annotations

import ctypes
import mmap
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["keep_out", "private_array"]

PR_SET_DUMPABLE = 4
WIPE_ON_FORK = 18  # MADV_WIPEONFORK of Linux, for which Python has no name


@cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def keep_out() -> None:
    """From now on this process leaves no core dump, and only root may look into its memory (/proc/PID/mem, ptrace).
    A program that is started anew from here isn't affected."""
    with suppress(OSError, AttributeError):  # no Linux
        _libc().prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def private_array(
    shape: tuple[int, ...], dtype: type[np.uint32] | type[np.uint8], *, wipe_on_fork: bool = False
) -> NDArray[Any]:
    """An array of zeros in pages of its own, which aren't swapped or dumped where the system allows that.

    `wipe_on_fork`: a child process gets zeros in their place.
    """
    count = int(np.prod(shape))
    pages = mmap.mmap(-1, max(1, count * np.dtype(dtype).itemsize), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    found = np.frombuffer(pages, dtype, count).reshape(shape)  # which keeps the pages as long as it lives
    with suppress(OSError, AttributeError, ValueError):
        pages.madvise(mmap.MADV_DONTDUMP)
    if wipe_on_fork:
        with suppress(OSError, ValueError):
            pages.madvise(WIPE_ON_FORK)
    with suppress(OSError, AttributeError):
        # Beyond the limit of the system this does nothing.
        _libc().mlock(ctypes.c_void_p(found.ctypes.data), ctypes.c_size_t(len(pages)))
    return found
