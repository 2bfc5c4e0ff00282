"""The sources of `cutset stream run`: what they put up with, and what is said where something goes wrong with them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Any

from cutset.errors import SourceLost

if TYPE_CHECKING:
    from cutset.serve.feed import StreamFeed
    from cutset.video.result import Result
    from cutset.video.sources import Source, Tolerance

__all__ = ["SourceWatch", "add_tolerance", "tolerance_from"]


def add_tolerance(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    group = parser.add_argument_group("sources")
    group.add_argument(
        "--bad-packets",
        type=int,
        default=25,
        metavar="N",
        help="give a source up after more than N packets, one after another, that can't be decoded (default 25)",
    )
    group.add_argument(
        "--source-timeout",
        type=float,
        default=10.0,
        metavar="S",
        help="a camera or stream is lost when nothing comes for S seconds (default 10)",
    )
    group.add_argument(
        "--source-patience",
        type=float,
        default=60.0,
        metavar="S",
        help="open a lost camera or stream again for S seconds, then end with exit code 1 (default 60; 0: at once)",
    )


def tolerance_from(args: argparse.Namespace) -> Tolerance:
    """Raises SourceError for what can't be."""
    from cutset.video.sources import Tolerance

    return Tolerance(args.bad_packets, args.source_timeout, args.source_patience)


class SourceWatch:
    """What happens to the sources of a run. `feed` is the dashboard that is told; `lost` why one is gone for good."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self.sources: list[Source] = []
        self.feed: StreamFeed | None = None
        self.lost = ""

    def heard(self, line: str) -> None:
        """A source says something; from any thread."""
        self._tell(line)
        if self.feed is not None:
            self.feed.sources(self.sources)

    def results(self, stream: Iterable[Result]) -> Iterator[Result]:
        """A stream's results. Where a source was lost and never came back they end, when those of all others do."""
        try:
            yield from chain(stream)  # a stream's own iterator would be closed with this one
        except SourceLost as error:
            self.lost = str(error)
            self._tell(self.lost)

    def figures(self) -> list[dict[str, Any]]:
        """For a result file."""
        return [{"name": source.name, **asdict(source.faults)} for source in self.sources]

    def lines(self) -> list[str]:
        """For the end: what went wrong, where something did."""
        return [f"{source.name}: {line}" for source in self.sources if (line := source.faults.line())]
