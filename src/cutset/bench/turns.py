"""Systems that are measured in turns, each in a process of its own.

Round after round every system is asked once, so that a noisy neighbour disturbs all of them alike. The first round
warms up. A figure is the median over the rounds that count.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

from cutset.compare.results import Row, summarise
from cutset.errors import EngineError

__all__ = ["Process", "Turn", "environment", "medians", "started", "take_turns"]

# Given the round's number, 0 or less for one that warms up; single measurements, as rows without a spread.
Turn = Callable[[int], Iterable[Row]]
ENDING = 20.0  # seconds that a process has to end by itself


def take_turns(
    name: str,
    turns: Sequence[Turn],
    rounds: int,
    tell: Callable[[str], None] = lambda line: None,
    *,
    warmup: int = 1,
    order: random.Random | None = None,
) -> list[Row]:
    """Takes every turn once a round; what the rounds after the first `warmup` ones measured, turn by turn.

    `tell` is told of every round, under `name`. With `order` the turns of a round are shuffled: whoever comes next
    finds the caches as the one before left them, so nobody follows the same one each time.
    """
    measured: list[list[Row]] = [[] for _ in turns]
    for number in range(1 - warmup, rounds + 1):
        for i in range(len(turns)) if order is None else order.sample(range(len(turns)), len(turns)):
            found = list(turns[i](number))
            if number > 0:
                measured[i] += found
        tell(f"{name}: round {max(number, 0)} of {rounds}")
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
    """Variables for a process that is measured: none of this one's settings but the instruction set.

    Everyone waits as they choose: with OMP_WAIT_POLICY=PASSIVE llama.cpp decodes at half its speed, with ACTIVE its
    idle threads would slow the others down. By default OpenMP spins a little and then sleeps.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CUTSET_", "OMP_"))}
    if "CUTSET_ISA" in os.environ:
        kept["CUTSET_ISA"] = os.environ["CUTSET_ISA"]
    if threads is not None:
        kept |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return kept


class Process:
    """A child that answers commands as `cutset.bench.child` does, started with `command`; `ready` is its first answer.

    `name` is for errors. `quiet` keeps its stderr from the terminal. Raises EngineError if it can't start.
    """

    def __init__(self, command: Sequence[str], *, name: str, threads: int | None = None, quiet: bool = False) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            text=True,
            env=environment(threads),
        )
        try:
            self.ready = self.answer()
        except BaseException:
            self.close()
            raise

    def ask(self, **command: Any) -> None:
        """Sends a command; `answer` waits for what comes back. Raises EngineError if the process has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None

    def answer(self) -> dict[str, Any]:
        """The answer to the earliest command that has none yet. Raises EngineError if it failed."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise EngineError(f"{self.name}: {found['error']}")
        return found

    def call(self, **command: Any) -> dict[str, Any]:
        """A command and its answer."""
        self.ask(**command)
        return self.answer()

    def _ended(self) -> EngineError:
        return EngineError(f"{self.name}: its process ended with {self._process.wait()}")

    def close(self) -> None:
        """Ends the process."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

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
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(threads)) as process:
        try:
            assert process.stderr is not None
            said = ""
            for line in process.stderr:
                said += line
                if found := re.search(announcement, line):
                    yield found[1]
                    break
            else:
                raise EngineError(f"{name} didn't start: {said.strip()[-300:]}")
        finally:
            process.terminate()
            try:
                process.wait(ENDING)
            except subprocess.TimeoutExpired:
                process.kill()
