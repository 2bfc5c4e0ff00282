"""A machine that is slower than this one: work is followed by sleep."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from cutset.errors import ConfigError

__all__ = ["Speed", "parse_speeds"]

LEAST = 1e-3
LATELY = 9  # times that work of a kind was done
KINDS = 8  # of work that are remembered
MOST_AHEAD = -0.01  # seconds of debt
FREE = nullcontext()
SHORTEST = 1e-4  # seconds; shorter sleeps are saved up, since the system's own are longer


class Speed:
    """`factor`: the emulated machine's speed as a share of this one's, in (0, 1]. For one thread.

    What counts is the CPU time of the thread that works, so that neighbours on the same core don't count twice. With
    several compute threads that of the one that calls them counts, which waits for them awake.

    This machine works slower just after it slept, which the emulated one, busy all that time, wouldn't have: work that
    is the same every time counts as the least that it took lately.
    """

    def __init__(
        self,
        factor: float = 1.0,
        *,
        cpu: Callable[[], float] = time.thread_time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.factor = factor
        self._cpu, self._clock, self._sleep = cpu, clock, sleep
        self._took: dict[Hashable, deque[float]] = {}  # CPU seconds of work that is the same every time, newest last
        self._debt = 0.0  # seconds to sleep; below 0 after a sleep that was too long

    @property
    def factor(self) -> float:
        """It may be changed at any time, and holds for what is paid from then on."""
        return self._factor

    @factor.setter
    def factor(self, factor: float) -> None:
        if not LEAST <= factor <= 1:
            raise ConfigError(f"a speed must be between {LEAST:g} and 1, where 1 is this machine's, not {factor:g}")
        self._factor = factor

    def seconds(self, cpu_seconds: float) -> float:
        """How long that work takes at this speed."""
        return cpu_seconds / self._factor

    def pay(self, cpu_seconds: float, same: Hashable = None) -> None:
        """Sleeps as much longer as work of so many seconds of CPU takes at this speed. `same` names work that is the
        same every time.
        """
        if self._factor == 1:
            return
        least = cpu_seconds
        if same is not None:
            took = self._took.pop(same, deque(maxlen=LATELY))
            took.append(cpu_seconds)
            least = min(took)
            self._took[same] = took
            if len(self._took) > KINDS:
                del self._took[next(iter(self._took))]
        self._debt = max(self._debt + least / self._factor - cpu_seconds, MOST_AHEAD)
        if self._debt < SHORTEST:
            return
        start = self._clock()
        self._sleep(self._debt)
        # A sleep that was far too long is the system's, not the machine's.
        self._debt = max(self._debt - (self._clock() - start), MOST_AHEAD)

    def work(self, same: Hashable = None) -> AbstractContextManager[None]:
        """Pays for the CPU time of this thread within. `same` names work that is the same every time."""
        return FREE if self._factor == 1 else self._paid(same)

    @contextmanager
    def _paid(self, same: Hashable) -> Iterator[None]:
        start = self._cpu()
        try:
            yield
        finally:
            self.pay(self._cpu() - start, same)


def parse_speeds(text: str | Sequence[float], count: int) -> tuple[float, ...]:
    """`0.125,0.25,1`, or such numbers: the factors of `count` workers; one for all, or one each. Raises ConfigError."""
    try:
        factors = [Speed(float(part)).factor for part in (text.split(",") if isinstance(text, str) else text)]
    except ValueError:
        raise ConfigError(f"{text!r}: write speeds as 0.125,0.25,1, where 1 is this machine's") from None
    if len(factors) == 1:
        return tuple(factors * count)
    if len(factors) != count:
        raise ConfigError(f"{len(factors)} speeds for {count} workers: name one for all, or one for each")
    return tuple(factors)
