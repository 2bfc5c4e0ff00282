"""Many groups of machines under load, while machines fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.cli import main
from cutset.engine.fleet_scenario import FleetServing, read_serving
from cutset.engine.fleet_simulation import FleetGroup, run_failures, run_fleet
from cutset.errors import ConfigError

GROUP = FleetGroup(machines=4, slots=8, token=0.01, first=0.1, rate=400.0, load=10.0)
SERVING = FleetServing(requests=1.0, prompt=100, answer=101, count=2000, seed=3)
FILE = """
context = 2048
sequences = 32
[shape]
hidden = 8192
layers = 80
heads = 64
kv_heads = 8
intermediate = 28672
vocab = 128256
bits = 4.5
[[worker]]
count = 1000
link = "1.2GB/s,0.3ms"
memory = "24GiB"
bandwidth = "400GB/s"
gflops = 40000
[serving]
requests = 150
prompt = 500
answer = 200
"""


def test_a_request_alone_takes_what_the_plan_says() -> None:
    run = run_fleet(GROUP, 10, replace(SERVING, requests=0.1, count=200))
    assert np.median(run.whole) == pytest.approx(0.1 + 100 * 0.01)
    assert run.waited.max() == 0


def test_under_more_load_than_it_bears_it_serves_its_rate() -> None:
    """One group of 400 tokens/s: a request is worth 100 tokens and 10 for its prompt."""
    run = run_fleet(GROUP, 1, replace(SERVING, requests=100.0))
    worth = 100 + GROUP.first / GROUP.token
    assert 2000 * worth / GROUP.rate == pytest.approx(float((run.arrivals + run.whole).max()), rel=0.02)
    light = run_fleet(GROUP, 4, replace(SERVING, requests=5.0))
    assert light.served(101) == pytest.approx(5 * 101, rel=0.1)


def test_places_are_never_more_than_there_are_and_the_first_come_first() -> None:
    run = run_fleet(GROUP, 2, replace(SERVING, requests=50.0, count=400))
    starts = run.arrivals + run.waited
    assert (np.diff(starts) >= -1e-9).all()
    ends = run.arrivals + run.whole
    for moment in np.linspace(0, float(ends.max()), 100):
        assert ((starts <= moment) & (ends > moment)).sum() <= 2 * GROUP.slots


def test_without_spares_groups_run_as_renewal_theory_says() -> None:
    serving = replace(SERVING, mtbf=86400.0, restart=600.0, detect=3.0)
    run = run_failures(GROUP, 50, serving)
    outage = 600 + GROUP.load  # a machine that is back is known at once
    assert run.up == pytest.approx(1 - outage / (86400 / 4), rel=0.02)
    assert run.by_spare == 0
    many = run_failures(GROUP, 50, replace(serving, spares=50))
    assert many.by_spare == many.failures
    assert many.outage == pytest.approx(3 + GROUP.load, rel=0.05)
    assert many.up > run.up
    assert run_failures(GROUP, 50, SERVING).up == 1


def test_what_ran_when_a_machine_failed_ends_later() -> None:
    serving = replace(SERVING, requests=2.0, mtbf=500.0, restart=100.0, detect=2.0, spares=4)
    calm, hit = run_fleet(GROUP, 4, replace(serving, mtbf=0.0)), run_fleet(GROUP, 4, serving)
    assert hit.failures > 3
    assert hit.again > 3
    assert np.isfinite(hit.whole).all(), "none is lost"
    assert float(np.percentile(hit.whole, 99)) > float(np.percentile(calm.whole, 99)) + GROUP.load
    assert np.median(hit.whole) < np.median(calm.whole) * 1.5
    assert (run_fleet(GROUP, 4, serving).whole == hit.whole).all(), "the seed decides"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "requests is missing"),
        ({"requests": 0, "prompt": 1, "answer": 1}, "requests must be from"),
        ({"requests": 1, "prompt": 1, "answer": 1, "mtbf": "30"}, "is no time"),
        ({"requests": 1, "prompt": 1, "answer": 1, "restart": "0s"}, "is no time"),
        ({"requests": 1, "prompt": 1, "answer": 1, "spare": 1}, "spares"),
        ({"requests": 1, "prompt": 1.5, "answer": 1}, "prompt must be int"),
        ({"requests": 1, "prompt": 1, "answer": 1, "count": 1}, "count must be"),
    ],
)
def test_tables_that_cant_be(table: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_serving(table, "file")


def test_a_thousand_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "fleet.toml", tmp_path / "out.json"
    file.write_text(FILE + 'mtbf = "30d"\nrestart = "10min"\nspares = 10\ncost = 0.8\nstages = 6\n')
    assert main(["simulate", str(file), "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert (found["groups"], found["stages"], found["left_over"]) == (165, 6, 0)
    assert found["served"] == pytest.approx(found["asked"], rel=0.1)
    assert 0.999 < found["up"] < 1
    assert found["limits"] == sorted(found["limits"], key=lambda one: one["times"])
    said = capsys.readouterr().out
    for words in ("breaks first", "a million tokens", "failures a day", "1,000 machines: 165 groups of 6 stages"):
        assert words in said
    file.write_text(FILE.replace("count = 1000", "count = 3") + "spares = 2\n")
    assert main(["simulate", str(file)]) == 2
    assert "need" in capsys.readouterr().err
    file.write_text(FILE.replace("[serving]", '[[worker]]\nlink = "1GB/s,1ms"\nmemory = "8GiB"\n[serving]'))
    assert main(["simulate", str(file)]) == 2
    assert "alike" in capsys.readouterr().err
