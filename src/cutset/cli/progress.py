"""A progress bar on stderr, where somebody watches."""

from __future__ import annotations

import sys
import time

from cutset.errors import printable

__all__ = ["Progress"]

WIDTH = 30
DELAY_S = 0.5  # what is done sooner needs no bar


class Progress:
    """Call it with what is being done, and how many of how many are done; it draws a bar if stderr is a terminal."""

    def __init__(self) -> None:
        self.shown = False
        self.watched = sys.stderr.isatty()
        self.since = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        if self.watched and time.monotonic() - self.since >= DELAY_S:
            self.shown = True
            bar = "█" * (WIDTH * done // max(total, 1))
            print(
                f"\r{bar:<{WIDTH}} {done}/{total} {printable(what, lines=False)[:40]:<40}",
                end="",
                file=sys.stderr,
                flush=True,
            )
        if done >= total:
            self.clear()

    def clear(self) -> None:
        """Takes the bar away."""
        if self.shown:
            print(f"\r{'':<{WIDTH + 60}}\r", end="", file=sys.stderr, flush=True)
            self.shown = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
