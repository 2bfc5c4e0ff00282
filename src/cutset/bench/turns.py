"""Systems that are measured in turns, each in a process of its own.

Round after round every system is asked once, so that a noisy neighbour disturbs all of them alike. The first round
warms up. A figure is the median over the rounds that count.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

from cutset.compare.results import Row, summarise
from cutset.errors import EngineError
from cutset.link import launch
from cutset.link.launch import DEVNULL, PIPE, Child

__all__ = ["Process", "Turn", "environment", "medians", "started", "take_turns"]

# Given the round's number, 0 or less for one that warms up; single measurements, as rows without a spread.
Turn = Callable[[int], Iterable[Row]]
ENDING = 20.0  # seconds that a process has to end by itself


def take_turns(
    name: str,
    turns: Sequence[Turn],
    rounds: int,
    log: Callable[[str], None] = lambda line: None,
    *,
    warmup: int = 1,
    order: random.Random | None = None,
) -> list[Row]:
    """Takes every turn once a round; what the rounds after the first `warmup` ones measured, turn by turn.

    `log` gets a line for every round, with `name`. With `order` the turns of a round are shuffled: whoever comes next
    finds the caches as the one before left them, so nobody follows the same one each time.
    """
    measured: list[list[Row]] = [[] for _ in turns]
    for number in range(1 - warmup, rounds + 1):
        for i in range(len(turns)) if order is None else order.sample(range(len(turns)), len(turns)):
            found = list(turns[i](number))
            if number > 0:
                measured[i] += found
        log(f"{name}: round {max(number, 0)} of {rounds}")
    return [row for rows in measured for row in rows]


def medians(measured: Iterable[Row]) -> list[Row]:
    """One row for all measurements of the same figure, with its spread; in the order in which they first came."""
    samples: dict[tuple[str, str, str, str], list[float]] = {}
    for row in measured:
        samples.setdefault((row.workload, row.system, row.metric, row.unit), []).append(row.value)
    return [
        summarise(workload, system, metric, values, unit)
        for (workload, system, metric, unit), values in samples.items()
    ]


def environment(threads: int | None = None) -> dict[str, str]:
    """Variables for a process that is measured: of this one's settings the instruction set and the place of shared
    memory alone.

    Everyone waits as they choose: with OMP_WAIT_POLICY=PASSIVE llama.cpp decodes at half its speed, with ACTIVE its
    idle threads would slow the others down. By default OpenMP spins a little and then sleeps.
    """
    return launch.environment(threads or 0, drop=("CUTSET_", "OMP_"), keep=("CUTSET_ISA", "CUTSET_SHM_DIR"))


class Process:
    """A child that answers commands as `cutset.bench.child` does, started with `command`; `ready` is its first answer.

    `name` is for errors. `quiet` keeps its stderr from the terminal. `prefix`: what it is started by, as of `Child`.
    Raises EngineError if it can't start.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        threads: int | None = None,
        quiet: bool = False,
        prefix: Sequence[str] = (),
    ) -> None:
        self.name = name
        stderr = DEVNULL if quiet else None
        self._child = _child(
            f"{name}: its process", command, threads, stdin=PIPE, stdout=PIPE, stderr=stderr, prefix=prefix
        )
        try:
            self.ready = self.answer()
        except BaseException:
            self.close()
            raise

    def ask(self, **command: Any) -> None:
        """Sends a command; `answer` waits for what comes back. Raises EngineError if the process has ended."""
        self._child.ask(command)

    def answer(self) -> dict[str, Any]:
        """The answer to the earliest command that has none yet. Raises EngineError if it failed."""
        found = self._child.answer()
        if "error" in found:
            raise EngineError(f"{self.name}: {found['error']}")
        return found

    def call(self, **command: Any) -> dict[str, Any]:
        """A command and its answer."""
        self.ask(**command)
        return self.answer()

    def close(self) -> None:
        """Ends the process."""
        self._child.end(ENDING)

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextlib.contextmanager
def started(command: Sequence[str], announcement: str, *, name: str, threads: int | None = None) -> Iterator[str]:
    """A server, from the line of its stderr in which `announcement` is found; gives what the pattern's group matched.

    Raises EngineError, with the end of what it said, if it ends without that line.
    """
    child = _child(name, command, threads, stderr=PIPE)
    try:
        yield child.until(announcement)[1]
    finally:
        child.end(ENDING)


def _child(what: str, command: Sequence[str], threads: int | None, **streams: Any) -> Child:
    """Cutset's own modules end with this process; other programs are started as they are."""
    own = list(command[:2]) == [sys.executable, "-m"] and command[2].split(".")[0] == "cutset"
    return Child(what, command[2:] if own else command, own=own, env=environment(threads), **streams)
