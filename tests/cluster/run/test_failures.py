"""Workers that die, stand still, come back, or can't go on: every picture still has its result, in order."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cluster.run.passage import Passage
from cluster.run.pictures import expected, moving, same, small_model
from cluster.run.running import Running
from cutset.cluster.coordinator.plans import even_plan
from cutset.cluster.coordinator.switching import Options, Route, Switch
from cutset.cluster.inputs import PlainInputs
from cutset.cluster.launch.local import LocalWorkers
from cutset.cluster.worker.preparation import Preparation
from cutset.errors import ConfigError, CutsetError
from cutset.link import Timeouts, connect
from cutset.partition.plan import Plan
from cutset.stream import Stream
from cutset.video.summary import Summary

QUICK = Options(in_flight=4, rate=60, silence=2.0, beat=0.1)


@dataclass
class Log:
    """What a stream told, and when."""

    lines: list[tuple[float, str]] = field(default_factory=list)

    def __call__(self, line: str) -> None:
        self.lines.append((time.monotonic(), line))

    def when(self, text: str) -> float:
        return next(at for at, line in self.lines if text in line)


@pytest.fixture
def healed(workers: LocalWorkers) -> Iterator[LocalWorkers]:
    """The shared workers; whoever is dead afterwards is started again."""
    yield workers
    for name in workers.names:
        process = workers.process(name)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGCONT)
        else:
            workers.start(name)
            connect(workers.addresses[name][0], timeouts=Timeouts(connect=30)).close()


def kill(local: LocalWorkers, name: str) -> None:
    local.process(name).kill()
    local.process(name).wait()


def stop(local: LocalWorkers, name: str) -> None:
    os.kill(local.process(name).pid, signal.SIGSTOP)


def kill_busy(local: LocalWorkers, name: str) -> None:
    """Kills it with pictures on their way to it: it stands still first, for less than the silence that is noticed."""
    stop(local, name)
    time.sleep(0.3)
    kill(local, name)


def terminate(local: LocalWorkers, name: str) -> None:
    local.process(name).terminate()
    local.process(name).wait()


def disturbed(
    local: LocalWorkers,
    count: int,
    deeds: dict[int, Callable[[], None]],
    options: Options = QUICK,
    others: dict[str, str] | None = None,
) -> tuple[list[Any], Log, Any]:
    """Results of `count` pictures, with something done after some of them. `others` are addresses to use instead."""
    log, pictures, results = Log(), moving(count), []
    addresses = local.addresses | {name: (address, None) for name, address in (others or {}).items()}
    with Stream(small_model(), pictures, workers=addresses, options=options, log=log) as stream:
        for result in stream:
            results.append(result)
            if result.picture in deeds:
                deeds[result.picture]()
        plans = stream.coordinator.plans
    same(results, expected(pictures))
    return results, log, plans


SLOW = pytest.mark.slow


@pytest.mark.parametrize("name", [pytest.param("worker1", marks=SLOW), "worker2", pytest.param("worker3", marks=SLOW)])
def test_a_worker_is_killed(healed: LocalWorkers, name: str) -> None:
    results, log, plans = disturbed(healed, 60, {20: lambda: kill_busy(healed, name)})
    assert [stage.worker for stage in plans[-1][1].stages] == [n for n in healed.names if n != name]
    assert any(r.attempts > 1 for r in results), "nothing was on its way: this shows nothing"
    gone, again = log.when(f"{name} is gone"), log.when(f"plan {len(plans)}:")
    assert again - gone < 10, "weights were on the disk"


@pytest.mark.parametrize("name", ["worker1", pytest.param("worker2", marks=SLOW)])
def test_a_worker_stands_still(healed: LocalWorkers, name: str) -> None:
    results, log, plans = disturbed(healed, 60, {15: lambda: stop(healed, name)})
    assert any("no heartbeat" in line for _, line in log.lines)
    summary = Summary()
    for result in results:
        summary.result(result)
    waited = max(result.latency for result in results)
    assert waited >= QUICK.silence, "it waited for the worker's silence, whenever it was sent last"
    assert f"{waited * 1e3:.1f} ms (largest)" in summary.lines()[1]
    again = [result for result in results if result.attempts > 1]
    assert again
    assert all(result.transit < result.latency - 1 for result in again), "links and layers alone"
    assert name not in [stage.worker for stage in plans[-1][1].stages]


@SLOW
def test_a_worker_that_ends_in_order(healed: LocalWorkers) -> None:
    _, _, plans = disturbed(healed, 150, {15: lambda: terminate(healed, "worker2")})
    assert len(plans) >= 2


@SLOW
def test_two_of_three_are_killed_one_after_the_other(healed: LocalWorkers) -> None:
    deeds = {10: lambda: kill(healed, "worker3"), 12: lambda: kill(healed, "worker1")}
    _, _, plans = disturbed(healed, 60, deeds)
    assert [stage.worker for stage in plans[-1][1].stages] == ["worker2"]


def test_a_worker_that_comes_back_is_used_again(healed: LocalWorkers) -> None:
    given: list[Any] = []
    until = time.monotonic() + 60

    def pictures() -> Iterator[Any]:
        some = moving(50)
        while time.monotonic() < until:
            given.append(some[len(given) % 50])
            yield given[-1]

    results: list[Any] = []
    with Stream(small_model(), pictures(), workers=healed.addresses, options=QUICK) as stream:
        for result in stream:
            results.append(result)
            if result.picture == 10:
                kill(healed, "worker2")
            if result.picture == 30:
                healed.start("worker2")
            names = {number: [stage.worker for stage in plan.stages] for number, plan, _ in stream.coordinator.plans}
            if result.picture > 30 and "worker2" in names[result.plan]:
                break
        else:
            pytest.fail("it was not used again")
    assert any("worker2" not in used for used in names.values()), "it was never missed"
    wanted = expected(moving(50))
    same(results, [wanted[i % 50] for i in range(len(results))])


def test_a_proposal_that_came_too_late_ends_nothing(healed: LocalWorkers) -> None:
    """Nobody used the worker that died, so no plan had to be made; and the plan that needs it was on its way."""
    model, log, pictures = small_model(), Log(), moving(60)
    alone, late = even_plan(model, ["worker1"]), even_plan(model, ["worker1", "worker3"])
    asked: list[str] = []

    def planner(model: Any, alive: Any, why: str) -> Plan:
        asked.append(why)
        return alone

    results = []
    with Stream(model, pictures, workers=healed.addresses, planner=planner, options=QUICK, log=log) as stream:
        with pytest.raises(ConfigError, match="the plan is for worker9"):
            stream.coordinator.propose(even_plan(model, ["worker9"]), "a test")
        for result in stream:
            results.append(result)
            if result.picture == 10:
                kill(healed, "worker3")
                while not any("worker3 is gone" in line for _, line in log.lines):
                    time.sleep(0.01)
                stream.coordinator.propose(late, "a test")
        plans = [plan for _, plan, _ in stream.coordinator.plans]
    same(results, expected(pictures))
    assert plans == [alone]
    assert asked[1:] == ["a plan was proposed for worker3, no longer there"]


def test_a_worker_that_never_gets_ready_is_left_out(
    workers: LocalWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lives, and answers; but the thread that should prepare stands still."""
    released = threading.Event()
    monkeypatch.setattr(Preparation, "_prepare", lambda self, order: released.wait(60))
    stuck = Running(f"ipc://{tmp_path}/stuck")
    log, pictures = Log(), moving(20)
    addresses = {"worker1": workers.addresses["worker1"], "stuck": (stuck.address, None)}
    options = replace(QUICK, prepare=1.0)
    try:
        with Stream(small_model(), pictures, workers=addresses, options=options, log=log) as stream:
            results = list(stream)
            plans = stream.coordinator.plans
    finally:
        released.set()
        stuck.close()
    same(results, expected(pictures))
    assert [[stage.worker for stage in plan.stages] for _, plan, _ in plans[:2]] == [["worker1", "stuck"], ["worker1"]]
    assert "stuck didn't get ready in 1 s" in plans[1][2]


def test_workers_that_get_weights_are_waited_for() -> None:
    """As long as frames of weights leave, or answers come."""
    model = small_model()
    plan = even_plan(model, ["a", "b"])
    remotes: Any = [SimpleNamespace(name=name, carried=0, links=1, say=lambda m: None) for name in "ab"]
    for remote in remotes:
        remote.address, remote.key, remote.description = f"ipc:///{remote.name}", None, lambda m: b""
    links: Any = SimpleNamespace(bandwidth=lambda *parties: math.inf)
    switch = Switch(Route(1, 0, plan, model, remotes, QUICK, PlainInputs()), model, QUICK, {}, links)
    begun = time.monotonic()
    assert 90 < switch.stands_still(begun + 100) <= 101
    remotes[1].carried = 5
    assert switch.stands_still(begun + 100) == 0
    assert switch.stands_still(begun + 130) == pytest.approx(30)
    switch.prepared("a")
    assert switch.stands_still(time.monotonic()) < 1
    assert switch.waiting == ["b"]


@pytest.fixture
def passage(healed: LocalWorkers) -> Iterator[Passage]:
    """On the way to worker2."""
    with Passage(f"{healed.directory}/passage", healed.addresses["worker2"][0]) as found:
        yield found


def test_the_link_between_two_workers_is_cut(healed: LocalWorkers, passage: Passage) -> None:
    """Both live, and both still have the coordinator's link."""

    def cut() -> None:
        passage.block(1)
        time.sleep(0.3)  # for pictures to be on their way
        passage.cut(1)

    results, log, plans = disturbed(healed, 60, {20: cut, 40: passage.mend}, others={"worker2": passage.address})
    assert passage.count >= 2, "no worker's link came this way"
    assert any(r.attempts > 1 for r in results), "nothing was on its way: this shows nothing"
    assert "worker2" not in [stage.worker for stage in plans[1][1].stages] or len(plans) > 2
    assert not any("worker1 is gone" in line or "worker3 is gone" in line for _, line in log.lines)


@SLOW
def test_nothing_comes_through_between_two_workers_and_neither_is_told(healed: LocalWorkers, passage: Passage) -> None:
    options = replace(QUICK, rate=20)
    _, _, plans = disturbed(healed, 60, {20: lambda: passage.block(1)}, options, {"worker2": passage.address})
    assert len(plans) > 1


@SLOW
def test_a_worker_is_cut_off_and_comes_back(healed: LocalWorkers, passage: Passage) -> None:
    _, log, plans = disturbed(
        healed, 200, {20: passage.cut, 60: passage.mend}, replace(QUICK, rate=30), {"worker2": passage.address}
    )
    assert "worker2" not in [stage.worker for stage in plans[1][1].stages]
    assert log.when("worker2 is gone") < [at for at, line in log.lines if "worker2 is there" in line][-1]
    assert "worker2" in [stage.worker for stage in plans[-1][1].stages]


@SLOW
def test_when_all_are_killed_what_was_on_its_way_is_reported_as_dropped(healed: LocalWorkers) -> None:
    pictures: list[Any] = moving(200)
    results: list[Any] = []
    options = Options(in_flight=4, rate=60, silence=1.0, patience=1.0)

    def kill_all() -> Iterator[Any]:
        for picture in pictures:
            yield picture
            if len(results) > 10:
                for name in healed.names:
                    kill(healed, name)

    with (
        Stream(small_model(), kill_all(), workers=healed.addresses, options=options) as stream,
        pytest.raises(CutsetError, match="no worker is left"),
    ):
        results.extend(stream)
    assert [r.picture for r in results] == list(range(len(results)))
    good = [r for r in results if not r.dropped]
    assert len(good) >= 11
    for result, wanted in zip(good, expected(pictures), strict=False):
        assert np.array_equal(result.output, wanted)
    assert [r.dropped for r in results if r.dropped] == ["no worker is left"] * (len(results) - len(good))
