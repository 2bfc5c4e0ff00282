"""One real Ray cluster for all tests here that need one: starting it takes tens of seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.launch.ray_processes import TOKEN, Nodes


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
