"""How commands print tables, sizes and what others wrote, and read stdin."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cutset.errors import RequestError, printable

__all__ = ["mib", "printable", "read_stdin", "say", "table"]

MOST_BYTES = 1 << 20  # of stdin


def say(text: object, *, end: str = "\n", flush: bool = False) -> None:
    """Prints a text of which a part comes from another party or a file."""
    print(printable(str(text)), end=end, flush=flush)


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows in aligned columns, two spaces apart; the columns in `right` are flush right. Cells may hold any text."""
    rows = [[printable(cell, lines=False) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        lines.append("  ".join(f"{cell:>{w}}" if i in right else f"{cell:<{w}}" for i, (cell, w) in enumerate(cells)))
    return "\n".join(line.rstrip() for line in lines)


def mib(nbytes: int) -> str:
    """Bytes as MiB, with one decimal."""
    return f"{nbytes / (1 << 20):.1f} MiB"


def read_stdin() -> str:
    """All of stdin as text. Raises RequestError where it isn't UTF-8, or longer than a prompt file may be."""
    data = sys.stdin.buffer.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise RequestError(f"stdin has more than {MOST_BYTES} bytes, the most that is read as a prompt")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"the prompt on stdin is not valid UTF-8: byte {error.start} is wrong") from None
