"""How commands print tables and sizes."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["mib", "printable", "table"]

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """A message whose parts may come from another party, without what a terminal would obey."""
    return CONTROL.sub("\ufffd", text)


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows in aligned columns, two spaces apart; the columns in `right` are flush right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        lines.append("  ".join(f"{cell:>{w}}" if i in right else f"{cell:<{w}}" for i, (cell, w) in enumerate(cells)))
    return "\n".join(line.rstrip() for line in lines)


def mib(nbytes: int) -> str:
    """Bytes as MiB, with one decimal."""
    return f"{nbytes / (1 << 20):.1f} MiB"
