"""Many cameras in sites, and one cloud."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
from cutset.cli import main
from cutset.partition.cost import Part
from cutset.partition.hop import Hop
from cutset.video.profile.site_scenario import CameraSite, Cloud, SiteScenario
from cutset.video.profile.site_simulation import SitePlan, run_sites

HEAD = 'model = "alexnet"\nfeatures = true\nsize = "64x96"\nprofile = "p.json"\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with a profile."""
    path = tmp_path_factory.mktemp("sites")
    made = ["alexnet", "--features", "--size", "64x96", "--threads", "1", "-o", str(path / "p.json")]
    assert main(["stream", "profile", *made]) == 0
    content = json.loads((path / "p.json").read_text())
    content["seconds"] = [0.01] * len(content["seconds"])  # 160 ms on every machine that tests run on
    content["whole"] = 0.01 * len(content["seconds"])
    (path / "p.json").write_text(json.dumps(content))
    return path


def simulated(folder: Path, text: str) -> Any:
    file, out = folder / "sites.toml", folder / "out.json"
    file.write_text(HEAD + text)
    assert main(["simulate", str(file), "--json", str(out)]) == 0
    return json.loads(out.read_text())


def test_a_site_computes_where_it_is_quickest(folder: Path) -> None:
    found = simulated(
        folder,
        """rate = 1
        [cloud]
        machines = 10
        speed = 10
        [[site]]
        name = "thin"
        link = "20kB/s,50ms"
        speed = 4
        [[site]]
        name = "fast"
        link = "100MB/s,1ms"
        speed = 0.25
        """,
    )
    plans = {one["name"]: one["plan"] for one in found["sites"]}
    assert plans == {"thin": "edge", "fast": "cloud"}
    assert found["latency"]["p50"] < 0.3


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_ten_thousand_cameras(folder: Path, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    sites = "".join(
        f'[[site]]\nname = "s{i}"\ncameras = {25 + i % 51}\nlink = "{1 + i % 40}MB/s,{5 + i % 60}ms"\n'
        f"speed = {2 + i % 8}\ncost = 0.1\n"
        for i in range(count)
    )
    found = simulated(folder, f"rate = 0.5\n[cloud]\nmachines = {count // 3}\nspeed = 20\ncost = 2.0\n{sites}")
    assert found["cameras"] > 9_900 or count < 200
    assert len(found["sites"]) == count
    assert found["limits"] == sorted(found["limits"], key=lambda one: one["times"])
    assert found["cost_an_hour"] == pytest.approx(count * 0.1 + count // 3 * 2)
    assert found["latency"]["p50"] <= found["latency"]["p95"] <= found["latency"]["p99"]
    said = capsys.readouterr().out
    for words in (f"cameras in {count} sites", "breaks first", "bytes to the cloud", "a thousand pictures"):
        assert words in said


def test_a_cloud_that_is_too_small_leaves_work_at_the_edge(folder: Path) -> None:
    text = """rate = 2
        [cloud]
        machines = {}
        speed = 10
        [[site]]
        count = 20
        cameras = 10
        link = "100MB/s,1ms"
        speed = 8
        """
    large, small = simulated(folder, text.format(100)), simulated(folder, text.format(3))
    assert {one["plan"] for one in large["sites"]} == {"cloud"}
    assert small["cloud_load"] <= 0.9
    assert {one["plan"] for one in small["sites"]} >= {"edge"}


def scenario(cameras: int, rate: float, machines: int) -> SiteScenario:
    site = CameraSite("one", cameras, Hop(), Hop(), 1.0, 0.0)
    return SiteScenario("", "", False, None, 0.2, rate, 4000, 1, Cloud(1.0, machines, 0.0), (site,))


def test_pictures_wait_as_queueing_theory_says() -> None:
    """Many cameras together come nearly at random: at one box, half a service time and load over one less load."""
    box = SitePlan("edge", (Part("compute", "edge", 0.01),))
    found = run_sites(scenario(2000, 0.025, 1), [box]).latency
    load = 2000 * 0.025 * 0.01
    assert found.mean() == pytest.approx(0.01 * (1 + load / (1 - load) / 2), rel=0.1)
    assert found.min() == pytest.approx(0.01)
    cloud = SitePlan("cloud", (Part("compute", "cloud", 0.01),))
    one = run_sites(scenario(2000, 0.025, 1), [cloud]).latency
    assert np.sort(one) == pytest.approx(np.sort(found)), "one machine of the cloud is as good"
    many = run_sites(scenario(2000, 0.025, 8), [cloud])
    assert many.latency.mean() == pytest.approx(0.01, rel=0.01)
    assert many.cloud_load == pytest.approx(load / 8)


def test_what_bears_least_breaks_first() -> None:
    parts = (
        Part("link", "coordinator", 0.001, 0.0, 1e5, "edge"),
        Part("compute", "edge", 0.004),
        Part("link", "edge", 0.008, 0.02, 5e4, "cloud"),
        Part("compute", "cloud", 0.005),
        Part("link", "cloud", 0.0001, 0.02, 100, "coordinator"),
    )
    run = run_sites(scenario(10, 5, 2), [SitePlan("both", parts)])
    assert [one.name for one in run.bearings] == [
        "the link of one",
        "the box of one",
        "the cloud",
        "the network of one",
    ]
    assert [round(one.times, 2) for one in run.bearings] == [2.47, 5.0, 8.0, 20.0]
    assert run.nbytes == pytest.approx(50 * 50_100)
    assert run.latency.min() == pytest.approx(0.0581)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[cloud]\nmachines = 1\n[[site]]\nlink = '1MB/s'\n", "must name"),
        ("rate = 1\n[[site]]\nlink = '1MB/s'\n", "must name"),
        ("rate = 1\n[cloud]\nmachines = 1\n[[site]]\ncameras = 2\n", "has no link"),
        ("rate = 1\n[cloud]\nmachines = 0\n[[site]]\nlink = '1MB/s,1ms'\n", "machines must be"),
        ("rate = 1\n[cloud]\nmachines = 1\n[[site]]\nlink = '1MB/s,1ms'\ncamera = 1\n", "did you mean 'cameras'"),
        ("rate = 1\n[cloud]\nmachines = 1\n[[site]]\nlink = '1MB/s,1ms'\nspeed = 0\n", "speed must be above 0"),
        ("rate = 1\n[cloud]\nmachines = 1\n[[site]]\nlink = '1MB/s,1ms'\ncount = 20000\n", "count and cameras"),
        ("rate = 1\n[cloud]\nmachines = 1\n" + 2 * "[[site]]\nname = 'a'\nlink = '1MB/s,1ms'\n", "one name"),
    ],
)
def test_files_that_cant_be(folder: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "wrong.toml"
    file.write_text(HEAD + text)
    assert main(["simulate", str(file)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
