"""Which of several is the quickest, on a machine that others disturb."""

from __future__ import annotations

from collections import Counter

from cutset.partition.timing import FEW_TURNS, MOST_TURNS, Run, in_turns


class Clock:
    """Runs that take so many seconds each, and other ones from turn to turn of all."""

    def __init__(self, seconds: dict[str, float], disturbed: dict[int, float] | None = None) -> None:
        self.turns: list[str] = []
        self.warm: list[str] = []
        self._seconds, self._disturbed = seconds, disturbed or {}
        self.runs: dict[str, Run] = {name: self._run(name) for name in seconds}
        self._names = {id(run): name for name, run in self.runs.items()}

    def _run(self, name: str) -> Run:
        def run(observe: object) -> None:
            self.warm.append(name)

        return run

    def timed(self, run: Run) -> float:
        name = self._names[id(run)]
        factor = self._disturbed.get(len(self.turns), 1.0)
        self.turns.append(name)
        return self._seconds[name] * factor


def test_what_disturbs_for_a_while_falls_on_all() -> None:
    """Three turns in a row that take twice as long: one after another, all of them would be the quickest one's."""
    seconds = {"slow": 1.5, "quick": 1.0, "slower": 2.0}
    for begin in range(6):
        clock = Clock(seconds, dict.fromkeys(range(begin, begin + 3), 2.0))
        found = in_turns(clock.runs, clock.timed)
        assert min(found, key=found.__getitem__) == "quick", begin
        assert found == seconds
        assert clock.warm == list(seconds), "all of them once before"


def test_those_that_are_close_go_on() -> None:
    clock = Clock({"a": 1.0, "b": 1.05, "c": 1.4, "d": 9.0}, {0: 1.1, 4: 1.1, 7: 1.1})
    found = in_turns(clock.runs, clock.timed)
    assert min(found, key=found.__getitem__) == "a"
    turns = Counter(clock.turns)
    assert turns["a"] == turns["b"] == MOST_TURNS
    assert turns["c"] == FEW_TURNS
    assert turns["d"] == 1, "hopeless"


def test_one_alone_is_timed_a_few_times() -> None:
    clock = Clock({"a": 1.0})
    assert in_turns(clock.runs, clock.timed) == {"a": 1.0}
    assert len(clock.turns) == FEW_TURNS
    assert in_turns({}) == {}
