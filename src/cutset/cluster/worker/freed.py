"""Memory that was freed and that the C library keeps for later."""

from __future__ import annotations

import contextlib
import ctypes

__all__ = ["give_back"]


def give_back() -> None:
    """Returns it to the system. After weights of hundreds of megabytes that is much of them: glibc keeps arrays of up
    to 32 MiB among the small ones, once some as large were freed. Elsewhere nothing happens."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
