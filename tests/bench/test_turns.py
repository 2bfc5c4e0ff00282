"""The harness of all benchmarks: who is asked when, what counts, and what a child that fails says."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator

import pytest

from cutset.bench import child
from cutset.bench.turns import Process, Turn, environment, medians, started, take_turns
from cutset.compare.results import Row
from cutset.errors import EngineError

CHILD = """
import sys
sys.path.insert(0, {folder!r})
import child
class System:
    versions = {{"rival": "1.0"}}
    def forward(self, batch):
        print("noise of a library")
        return batch / 2
    def generate(self, steps):
        if steps > 3:
            raise NotImplementedError("too long")
        return 1.0, 2.0
    def crash(self):
        raise RuntimeError("went wrong")
child.answer_commands({opened}, child.timed)
"""


def process(opened: str = "System") -> Process:
    code = CHILD.format(folder=child.__file__.rpartition("/")[0], opened=opened)
    return Process([sys.executable, "-c", code], name="rival", quiet=True)


def turn(name: str, seen: list[tuple[str, int]], values: list[float]) -> Turn:
    def measure(number: int) -> Iterator[Row]:
        seen.append((name, number))
        yield Row("w", name, "decode", values.pop(0), "tok/s")

    return measure


def test_systems_take_turns_and_the_first_round_does_not_count() -> None:
    seen: list[tuple[str, int]] = []
    told: list[str] = []
    turns = [turn("cutset", seen, [1.0, 10.0, 12.0, 11.0]), turn("rival", seen, [99.0, 4.0, 4.0, 5.0])]
    rows = medians(take_turns("w", turns, 3, told.append))
    assert seen == [(name, number) for number in range(4) for name in ("cutset", "rival")]
    assert [(row.system, row.value) for row in rows] == [("cutset", 11.0), ("rival", 4.0)]
    assert rows[0].spread == pytest.approx(0.5 / 11)
    assert told == [f"w: round {number} of 3" for number in range(4)]


def test_the_order_is_shuffled_and_the_rows_are_not() -> None:
    seen: list[tuple[str, int]] = []
    names = [str(i) for i in range(6)]
    turns = [turn(name, seen, [1.0] * 6) for name in names]
    rows = medians(take_turns("w", turns, 4, warmup=2, order=random.Random(0)))
    rounds = [[name for name, number in seen if number == at] for at in range(-1, 5)]
    assert all(sorted(names) == sorted(one) for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1
    assert [row.system for row in rows] == names


def test_figures_of_one_name_and_two_units_are_two_rows() -> None:
    rows = medians([Row("w", "s", "m", 1.0, "s"), Row("w", "s", "m", 2.0, "ms"), Row("w", "s", "m", 3.0, "s")])
    assert [(row.value, row.unit) for row in rows] == [(2.0, "s"), (2.0, "ms")]


def test_a_child_answers_until_it_is_closed() -> None:
    with process() as rival:
        assert rival.ready["versions"] == {"rival": "1.0"}
        assert 0 < rival.ready["rss_before"] <= rival.ready["rss"]
        assert rival.call(do="forward", batch=3, repeat=5) == {"seconds": 1.5}
        assert rival.call(do="generate", steps=2) == {"seconds": [1.0, 2.0]}
        assert rival.call(do="generate", steps=9) == {"missing": "too long"}


def test_a_child_that_fails_says_why() -> None:
    with process() as rival:
        with pytest.raises(EngineError, match="rival: RuntimeError: went wrong"):
            rival.call(do="crash")
        with pytest.raises(EngineError, match="rival: its process ended with 0"):
            rival.call(do="forward", batch=3, repeat=1)
    with pytest.raises(EngineError, match="rival: ZeroDivisionError"):
        process("lambda: 1 / 0")


def test_a_server_is_awaited_and_ended() -> None:
    code = "import sys, time; print('a warning\\nlistens at [x:1]', file=sys.stderr, flush=True); time.sleep(60)"
    with started([sys.executable, "-c", code], r"at \[(.*)\]", name="the server") as address:
        assert address == "x:1"
    with (
        pytest.raises(EngineError, match="the server ended with 1 and didn't start: no room"),
        started([sys.executable, "-c", "raise SystemExit('no room')"], "at (.*)", name="the server"),
    ):
        pass


def test_children_get_no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUTSET_THREADS", "OMP_WAIT_POLICY", "CUTSET_ISA", "KEPT"):
        monkeypatch.setenv(name, "7")
    found = environment(3)
    assert {"CUTSET_THREADS", "OMP_WAIT_POLICY"}.isdisjoint(found)
    assert (found["CUTSET_ISA"], found["KEPT"], found["OMP_NUM_THREADS"]) == ("7", "7", "3")
    assert environment().get("OMP_NUM_THREADS") is None
