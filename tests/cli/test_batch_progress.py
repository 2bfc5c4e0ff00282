"""How far a batch is, how fast, and how long it will take."""

from __future__ import annotations

import pytest

from cutset.cli.batch_progress import BatchProgress, duration


class Tally:
    done, failed = 100, 3


def test_rate_and_time_to_go_are_of_this_run() -> None:
    now, said, tally = [50.0], list[str](), Tally()
    progress = BatchProgress(1000, tally, said.append, clock=lambda: now[0])
    now[0] = 60.0
    progress.begin()
    progress.changed()
    assert progress.speed() == "no rate yet"
    for step in range(1, 26):
        now[0] = 60.0 + step
        tally.done = 100 + 10 * step
        progress.changed()
    assert said == [
        "200 of 1000 done, 3 failed, 10/s, 1 min 20 s to go",
        "300 of 1000 done, 3 failed, 10/s, 1 min 10 s to go",
    ]
    assert progress.summary("requests") == "350 requests (100 before), 3 failed, in 25 s, 10/s"
    for step in range(200):  # later it is slower, and the rate follows
        now[0], tally.done = 85.0 + step, 350 + step
        progress.changed()
    assert progress.speed() == "1/s, 7 min 31 s to go"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (61, "1 min 1 s"), (7260, "2 h 1 min"), (1e6, "11 d 13 h")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
