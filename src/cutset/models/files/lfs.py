"""Git LFS pointers: the few lines that stand in a clone for a large file that wasn't fetched.

https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md: a pointer is UTF-8 text of under 1,024 bytes, and this line
is its first.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from cutset.errors import CutsetError

__all__ = ["MOST_POINTER_BYTES", "check_no_pointer", "check_no_pointer_at"]

MOST_POINTER_BYTES = 1024
FIRST_LINE = b"version https://git-lfs.github.com/spec/"


def check_no_pointer(path: Path, content: bytes, error: type[CutsetError]) -> None:
    """Raises `error` where the content of a file, or its first MOST_POINTER_BYTES, is a Git LFS pointer."""
    if content.startswith(FIRST_LINE):
        raise error(f"{path} is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`")


def check_no_pointer_at(path: Path, error: type[CutsetError]) -> None:
    """The same for a file that someone else reads. One that can't be opened is left to them."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        check_no_pointer(path, file.read(MOST_POINTER_BYTES), error)
