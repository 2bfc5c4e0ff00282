"""Several cameras share workers that are too slow for all of them: evenly, in time, and in little memory."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cluster.run.pictures import expected, moving, small_model
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.launch.local import LocalWorkers
from cutset.partition.hop import Hop
from cutset.partition.plan import COORDINATOR
from cutset.stream import Stream
from cutset.video.result import Result
from cutset.video.sources import ArraySource
from cutset.video.sources.live import LiveSource
from cutset.video.sources.opening import Metered

SIZE = (24, 28)
BYTES = 3 * 24 * 28  # of a picture


def slow(workers: LocalWorkers, rate: float) -> dict[str, Any]:
    """One worker, behind a link that carries so many pictures a second."""
    name, where = next(iter(workers.addresses.items()))
    return {
        "workers": {name: where},
        "paces": {(COORDINATOR, name): Hop(bandwidth=BYTES * rate, latency=0.0)},
        "mode": "full",
        "in_flight": 4,
    }


def play(stream: Stream) -> list[Result]:
    return list(stream)


def shares(results: list[Result], sources: int) -> list[int]:
    """How many pictures of each source have a result."""
    found = Counter(result.source for result in results if not result.dropped)
    return [found[i] for i in range(sources)]


def check(results: list[Result], sources: list[list[Any]], deadline: float) -> None:
    """Every picture is there once, in order, with the module's result in time or a reason."""
    for number, pictures in enumerate(sources):
        mine = [result for result in results if result.source == number]
        assert [result.picture for result in mine] == list(range(len(pictures)))
        for result, wanted in zip(mine, expected(pictures), strict=True):
            if result.dropped:
                assert not result.outputs
                assert "after capture" in result.dropped
            else:
                assert result.age <= deadline
                assert np.array_equal(result.output, wanted)


def test_cameras_that_are_too_many_are_served_evenly_and_in_time(workers: LocalWorkers) -> None:
    sources = [moving(24, *SIZE, seed=i) for i in range(6)]
    with Stream(small_model(*SIZE), *sources, rate=20, deadline=0.4, **slow(workers, 60)) as stream:
        results = play(stream)
    check(results, sources, 0.4)
    done = shares(results, 6)
    assert 30 < sum(done) < 110, "half of 144 can be done"
    assert max(done) - min(done) <= 4, done


@pytest.mark.slow
def test_sixteen_cameras_with_a_network_that_keeps_up_with_eight(workers: LocalWorkers) -> None:
    sources = [moving(150, *SIZE, seed=i) for i in range(16)]
    waiting = 0
    results = []
    with Stream(small_model(*SIZE), *sources, rate=5, deadline=0.5, **slow(workers, 40)) as stream:
        for result in stream:
            results.append(result)
            waiting = max(waiting, stream.coordinator.results.qsize())
    check(results, sources, 0.5)
    done = shares(results, 16)
    mean = sum(done) / 16
    assert all(abs(one - mean) <= 0.1 * mean for one in done), done
    assert sum(done) > 0.75 * 40 * 30
    assert waiting <= 8, "no more wait than twice as many as may be in flight"


def test_each_camera_has_its_own_rate_and_deadline(workers: LocalWorkers) -> None:
    sources = [moving(12, *SIZE, seed=i) for i in range(3)]
    name, where = next(iter(workers.addresses.items()))
    options = Options(rate=40, rates=(10, None, None), deadlines=(None, None, 1e-6))
    with Stream(small_model(*SIZE), *sources, workers={name: where}, options=options) as stream:
        results = play(stream)
    seconds = [[r.captured for r in results if r.source == i] for i in range(3)]
    assert [round(one[-1] - one[0], 3) for one in seconds] == pytest.approx([1.1, 0.275, 0.275], abs=0.01)
    assert shares(results, 3) == [12, 12, 0]


def test_a_camera_that_stalls_starves_nobody(workers: LocalWorkers) -> None:
    over = threading.Event()

    def stalls(pictures: list[Any]) -> Iterator[Any]:
        yield from pictures[:3]
        over.wait(20)
        yield from pictures[3:]

    sources = [moving(5, *SIZE, seed=1), moving(60, *SIZE, seed=2), moving(60, *SIZE, seed=3)]
    results: list[Result] = []
    name, where = next(iter(workers.addresses.items()))
    with Stream(small_model(*SIZE), stalls(sources[0]), *sources[1:], workers={name: where}) as stream:
        for result in stream:
            results.append(result)
            if shares(results, 3)[1:] == [60, 60]:
                over.set()
    assert over.is_set()
    assert shares(results, 3) == [5, 60, 60]
    assert [r.picture for r in results[-2:]] == [3, 4], "what stalled came last"


def test_who_takes_results_slowly_gets_fresh_ones_and_the_old_ones_are_counted(workers: LocalWorkers) -> None:
    sources = [moving(50, *SIZE, seed=i) for i in range(2)]
    name, where = next(iter(workers.addresses.items()))
    results, waiting = [], 0
    with Stream(small_model(*SIZE), *sources, workers={name: where}, rate=50, deadline=0.2, in_flight=2) as stream:
        for result in stream:
            results.append(result)
            waiting = max(waiting, stream.coordinator.results.qsize())
            if not result.dropped:
                time.sleep(0.03)
    check(results, sources, 0.2)
    assert any(result.dropped for result in results)
    assert waiting <= 4


def test_a_live_camera_gives_its_newest_pictures(workers: LocalWorkers) -> None:
    pictures = moving(60, *SIZE)
    live = LiveSource(Metered(ArraySource(itertools.chain(pictures), name="camera"), rate=60))
    with live, Stream(small_model(*SIZE), live, **slow(workers, 12) | {"in_flight": 1}) as stream:
        results = play(stream)
    assert [result.picture for result in results] == list(range(len(results))), "numbers have no gaps"
    indices = [result.index for result in results]
    assert indices == sorted(set(indices))
    assert len(indices) < 40
    assert indices[-1] == 59
    wanted = expected(pictures)
    assert all(np.array_equal(result.output, wanted[result.index]) for result in results)
    ages = sorted(result.age for result in results[2:])
    assert ages[len(ages) // 2] < 6 / 12, "it doesn't wait behind older ones"
