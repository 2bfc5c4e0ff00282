"""How commands print tables, sizes and what others wrote."""

from __future__ import annotations

from collections.abc import Sequence

from cutset.errors import printable

__all__ = ["mib", "printable", "say", "table"]


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
