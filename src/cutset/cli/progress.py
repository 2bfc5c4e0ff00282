"""A progress bar on stderr, where somebody watches: rich's where it is installed."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from cutset.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = ["Progress"]

WIDTH = 30
LONGEST = 40  # characters of what is being done
DELAY_S = 0.5  # what is done sooner needs no bar


class Progress:
    """Call it with what is being done, and how many of how many are done; it draws a bar if stderr is a terminal."""

    def __init__(self) -> None:
        self.shown = False
        self.watched = sys.stderr.isatty()
        self.since = time.monotonic()
        self._rich: RichProgress | None = None
        self._task: TaskID | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        if self.watched and time.monotonic() - self.since >= DELAY_S:
            self._draw(printable(what, lines=False)[:LONGEST], done, total)
        if done >= total:
            self.clear()

    def _draw(self, what: str, done: int, total: int) -> None:
        if not self.shown:
            self.shown = True
            self._rich = _bars()
            if self._rich is not None:
                self._task = self._rich.add_task(_plain(what), completed=done, total=total)
                self._rich.start()
        if self._rich is not None and self._task is not None:
            self._rich.update(self._task, description=_plain(what), completed=done, total=total)
            return
        bar = "█" * (WIDTH * done // max(total, 1))
        print(f"\r{bar:<{WIDTH}} {done}/{total} {what:<{LONGEST}}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Takes the bar away."""
        if not self.shown:
            return
        self.shown = False
        if self._rich is not None:
            self._rich.stop()
            self._rich = None
        else:
            print(f"\r{'':<{WIDTH + 60}}\r", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()


def _bars() -> RichProgress | None:
    """rich's bars on stderr, which leave nothing behind; None without rich."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars
    except ModuleNotFoundError:
        return None
    columns = (BarColumn(WIDTH), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    return Bars(*columns, console=Console(stderr=True), transient=True)


def _plain(text: str) -> str:
    """What rich would take for markup is text."""
    from rich.markup import escape

    return escape(text)
