"""The file that describes machines that aren't there."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from cutset.errors import CutsetError
from cutset.partition.hop import Hop
from cutset.video.profile.scenario import read_scenario

FILE = """
model = "alexnet"
size = "48x64"
profile = "p.json"
changed = 0.1
objective = "throughput"
in_flight = 3
[[worker]]
link = "8MB/s,20ms"
speed = 0.125
memory = "500MB"
[[worker]]
link = "1MB/s"
name = "cloud"
profile = "/elsewhere/q.json"
"""


def test_what_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(FILE)
    found = read_scenario(tmp_path / "s.toml")
    assert (found.model, found.size, found.features, found.source) == ("alexnet", "48x64", False, None)
    assert found.profile == tmp_path / "p.json"
    assert found.profiles == (None, Path("/elsewhere/q.json"))
    assert found.memory == ("500MB", "")
    assert list(found.wish.names) == ["worker1", "cloud"]
    assert list(found.wish.speeds) == [0.125, 1.0]
    assert list(found.wish.hops) == [Hop(8e6, 0.02), Hop(1e6)]
    assert (found.wish.objective, found.wish.in_flight, found.wish.horizon) == ("throughput", 3, math.inf)


def test_json_says_the_same(tmp_path: Path) -> None:
    import tomllib

    (tmp_path / "s.toml").write_text(FILE)
    (tmp_path / "s.json").write_text(json.dumps(tomllib.loads(FILE)))
    assert read_scenario(tmp_path / "s.json") == read_scenario(tmp_path / "s.toml")


def test_a_source_lies_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text('source = "v.mp4"\n' + FILE)
    assert read_scenario(tmp_path / "s.toml").source == str(tmp_path / "v.mp4")
    (tmp_path / "s.toml").write_text('source = "generated:48x64"\n' + FILE)
    assert read_scenario(tmp_path / "s.toml").source == "generated:48x64"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("in_flight", "inflight", "'inflight' is not a key; did you mean 'in_flight'"),
        ("speed", "sped", "worker 1: 'sped' is not a key; did you mean 'speed'"),
        ('"8MB/s,20ms"', '"0MB/s"', "worker1: a link"),
        ('link = "1MB/s"\n', "", "cloud has no link"),
        ('"throughput"', '"speed"', "objective is latency or throughput"),
        ("in_flight = 3", "in_flight = 3.5", "in_flight must be int, not float"),
        ("in_flight = 3", "in_flight = true", "in_flight must be int, not bool"),
        ("changed", "pictures = 1\nchanged", "pictures must be"),
        ("[[worker]]", "[worker]", "can't be read"),
        ('model = "alexnet"', "", "must name a model"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, says: str, tmp_path: Path) -> None:
    assert old in FILE
    (tmp_path / "s.toml").write_text(FILE.replace(old, new))
    with pytest.raises(CutsetError, match=says):
        read_scenario(tmp_path / "s.toml")
