"""One real Ray cluster for all tests here that need one, since starting it takes tens of seconds; and one of names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.launch.fake_ray import FakeCluster, Fakes
from cluster.launch.ray_processes import TOKEN, Nodes
from cutset.cluster.launch import ray_launcher


@pytest.fixture(scope="package")
def nodes() -> Iterator[Nodes]:
    """Three nodes; who takes one away adds another."""
    pytest.importorskip("ray")
    found = Nodes(3, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN})
    yield found
    found.close()


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """This side has the cluster's token."""
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return env


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """Three nodes of one processor each."""
    found = Fakes(FakeCluster({"a": 1, "b": 1, "c": 1}))
    monkeypatch.setattr("cutset.cluster.launch.ray_security.installed", lambda: "2.60.0")
    monkeypatch.setattr(ray_launcher, "open_driver", found.open)
    return found
