"""What commands read from stdin."""

from __future__ import annotations

import sys

from cutset.errors import RequestError

__all__ = ["read_stdin"]

MOST_BYTES = 1 << 20


def read_stdin() -> str:
    """All of stdin as text. Raises RequestError where it isn't UTF-8, or longer than a prompt file may be."""
    data = sys.stdin.buffer.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise RequestError(f"stdin has more than {MOST_BYTES} bytes, the most that is read as a prompt")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"the prompt on stdin is not valid UTF-8: byte {error.start} is wrong") from None
