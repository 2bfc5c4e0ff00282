"""A stream from its settings: who makes the plans, what is opened, and that both faces make the same of them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cluster.run.pictures import expected, moving, same, small_model, small_network
from cutset import Stream, StreamSettings
from cutset.cli import main
from cutset.cluster.coordinator.even import even_plan
from cutset.cluster.launch.local import LocalWorkers
from cutset.config import load_stream_settings
from cutset.errors import ConfigError, CutsetError, RequestError, SourceError
from cutset.partition.hop import Hop
from cutset.partition.plan import COORDINATOR, write_plan
from cutset.video.assembly import Given, assemble
from cutset.video.sources import Source


@pytest.fixture(autouse=True)
def _even_splits() -> None:
    """Here the default is in force."""


def advisors() -> int:
    return sum(thread.name == "cutset-advisor" for thread in threading.enumerate())


def test_plans_are_made_by_the_optimal_scheduler_and_the_results_have_the_bits(workers: LocalWorkers) -> None:
    pictures, said = moving(5), list[str]()
    with Stream(small_network(), pictures, workers=workers.addresses, tell=said.append) as stream:
        same(list(stream), expected(pictures))
        assert [plan.scheduler for _, plan, _ in stream.coordinator.plans] == ["optimal"]
        assert stream.advisor is not None
    assert "plans are made by: optimal" in said
    assert advisors() == 0


def test_the_command_line_plans_as_python_does(
    workers: LocalWorkers, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The same alternatives with the same network, source, links and workers, whichever face asks."""
    source = "generated:64x96,pictures=3"
    addresses = [address for address, _ in workers.addresses.values()]
    said: list[str] = []
    settings = StreamSettings(features=True, workers=addresses, link=("1MB/s,2ms",))
    with Stream("alexnet", source, settings=settings, tell=said.append) as stream:
        found = [(result.picture, result.output.tobytes()) for result in stream]
    assert [number for number, _ in found] == [0, 1, 2]
    more = ["--features", "--workers", ",".join(addresses), "--link", "1MB/s,2ms", "--quiet", "--check"]
    assert main(["stream", "run", "alexnet", "--source", source, *more]) == 0
    shown = capsys.readouterr().err
    for name in ("optimal", "balance", "edge", "cloud"):
        assert any(line.startswith(f"{name}: ") for line in said), said
        assert f"stream: {name}: " in shown
    assert "plans are made by: optimal" in said
    assert "stream: plans are made by: optimal" in shown


def test_a_plan_alone_and_even_splits_measure_nothing(workers: LocalWorkers, tmp_path: Path) -> None:
    model, pictures = small_model(), moving(3)
    plan = even_plan(model, list(workers.addresses))
    file = tmp_path / "plan.json"
    file.write_bytes(write_plan(plan))
    for how in ({"plan": plan}, {"plan": file}, {"plan": str(file)}, {"scheduler": "even"}):
        with Stream(model, pictures, workers=workers.addresses, **how) as stream:
            same(list(stream), expected(pictures))
            assert stream.advisor is None
            [(_, used, _)] = stream.coordinator.plans
            assert used.stages == plan.stages, how
    with Stream(model, pictures, workers=workers.addresses, plan=plan, scheduler="edge") as stream:
        assert stream.advisor is not None
        same(list(stream), expected(pictures))


def test_a_planner_of_the_callers_takes_the_schedulers_place(workers: LocalWorkers) -> None:
    asked: list[str] = []

    def planner(model: Any, alive: Any, why: str) -> Any:
        asked.append(why)
        return even_plan(model, alive)

    with Stream(small_model(), moving(2), workers=workers.addresses, planner=planner) as stream:
        assert stream.advisor is None
        same(list(stream), expected(moving(2)))
    assert asked


def test_settings_of_planners_are_refused_where_none_measures() -> None:
    with pytest.raises(ConfigError, match="--objective: --scheduler even splits without measuring"):
        Stream(small_model(), moving(1), scheduler="even", objective="throughput")
    with pytest.raises(ConfigError, match="--look: --plan alone plays a plan without measuring"):
        Stream(small_model(), moving(1), plan=even_plan(small_model(), ["worker1"]), look=1)


@pytest.mark.parametrize("how", [{"scheduler": "even"}, {"planner": lambda model, alive, why: None}])
def test_pictures_that_stay_need_a_planner_that_keeps_it(how: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="kept by plans that are made here"):
        Stream(small_model(), moving(1), pictures_stay=True, **how)


def test_what_a_file_says_is_in_force(workers: LocalWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cutset.toml").write_text('[stream]\nscheduler = "even"\nin_flight = 2\n')
    monkeypatch.chdir(tmp_path)
    with Stream(small_model(), moving(2), workers=workers.addresses) as stream:
        assert (stream.settings.scheduler, stream.coordinator.options.in_flight) == ("even", 2)
        assert stream.advisor is None


def test_sources_by_name_are_opened_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    monkeypatch.setattr(Source, "close", lambda self: closed.append(self.name))
    even = load_stream_settings({"scheduler": "even", "limit": 2})
    names = ["generated:12x14", "generated:12x14,seed=1"]
    found = assemble(small_model(), names, even)
    assert [len(list(source)) for source in found.sources] == [2, 2]
    assert closed == []
    found.close()
    assert closed == ["generated:12x14", "generated:12x14"]
    with pytest.raises(SourceError, match="no file or folder"):
        assemble(small_model(), [names[0], "gone.mp4"], even)
    assert len(closed) == 3
    with pytest.raises(RequestError, match="different sizes"):
        assemble(small_model(), [names[0], "generated:14x12"], even)
    assert len(closed) == 5
    sized = load_stream_settings({"scheduler": "even", "size": "12x14"})
    assert [source.size for source in assemble(small_model(), ["generated:50x60"], sized).opened] == [(12, 14)]


def test_what_fails_late_leaves_no_planner(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CutsetError, match="not an address"):
        Stream(small_model(), moving(2), workers=["nonsense"])
    assert advisors() == 0


def test_planners_count_with_the_links_that_are_emulated() -> None:
    by_text = assemble(small_model(), [moving(3)], load_stream_settings({"workers": 2, "link": ["8MB/s,20ms", "5ms"]}))
    links = {(COORDINATOR, "worker1"): Hop(8e6, 0.02), ("worker1", "worker2"): Hop(latency=0.005)}
    by_object = assemble(small_model(), [moving(3)], load_stream_settings({"workers": 2}), Given(links=links))
    try:
        for found in (by_text, by_object):
            assert found.advisor is not None
            problem = found.advisor.planner.problem()
            assert problem.hops == (Hop(8e6, 0.02), Hop(latency=0.005))
            assert [machine.name for machine in problem.machines] == ["worker1", "worker2"]
            assert (problem.objective, problem.in_flight, problem.mode) == ("latency", 4, "delta")
    finally:
        by_text.close()
        by_object.close()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"workers": ["ipc:///a", "ipc:///a"]}, "names a worker twice"),
        ({"workers": []}, "names no worker"),
        ({"workers": ["ipc:///a"], "speed": (0.5,)}, "--speed is for workers that are started here"),
        ({"workers": 2, "speed": (0.5, 0.5, 1.0)}, "3 speeds for 2 workers"),
        ({"workers": 2, "link": ["1MB/s"] * 3}, "3 links for 2 hops"),
        ({"workers": 2, "link": ["fast"]}, "is no link"),
        ({"workers": 2, "worker_keys": ["a.pub"]}, "--worker-keys is for workers at addresses"),
        ({"workers": 2, "key": "a.key"}, "--key is for workers at addresses"),
        ({"workers": 2, "profile": ["none.json"]}, "can't read the profile"),
        ({"mode": "full", "levels": 3}, "the mode full sends all"),
        ({"max_error": 0.1, "mode": "full"}, "the mode full sends all"),
    ],
)
def test_what_does_not_go_together_is_said_before_a_worker_is_started(
    how: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalWorkers, "start", lambda self, name: pytest.fail("workers were started"))
    with pytest.raises(CutsetError, match=says) as caught:
        Stream(small_model(), moving(3), **how)
    assert str(caught.value).count("\n") <= 1
    assert advisors() == 0
