"""Connections to clusters, and what is said where there is none, no room, or no head any more; without Ray."""

from __future__ import annotations

import socket
import sys
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from cutset.cluster.launch import ray_connection
from cutset.cluster.launch.party_needs import Needs
from cutset.cluster.launch.ray_address import reachable
from cutset.cluster.launch.ray_connection import RayConnection
from cutset.cluster.launch.ray_pool import PoolOptions, open_pool
from cutset.errors import LinkError


def test_a_head_that_is_gone_for_a_while_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(ray_connection.time, "monotonic", lambda: now[0])
    connection = RayConnection.__new__(RayConnection)
    with socket.create_server(("127.0.0.1", 0)) as head:
        connection.address = f"127.0.0.1:{head.getsockname()[1]}"
        connection._looked = connection._seen = now[0]
        now[0] += 60.0
        connection.check()
    now[0] += 20.0
    connection.check()  # it may come back
    now[0] += 1.0
    connection.check()
    now[0] += 20.0
    with pytest.raises(LinkError, match=r"the head of the Ray cluster at 127.0.0.1:.* is gone"):
        connection.check()


class FakeConnection:
    """A cluster that has this free for its placement groups."""

    name = "the Ray cluster at 10.0.0.1:6379"
    made: ClassVar[list[FakeConnection]] = []
    free = ""

    def __init__(self, where: str, **more: Any) -> None:
        self.where, self.more = where, more
        self.bundles: list[Any] = []
        self.made.append(self)

    def place(self, bundles: list[Any], seconds: float) -> tuple[Any, str]:
        self.bundles = bundles
        return object(), self.free

    def check(self) -> None:
        """It is there."""

    def __enter__(self) -> FakeConnection:
        return self

    def __exit__(self, *error: object) -> None:
        self.where = "closed"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> type[FakeConnection]:
    """A head without processors, a node that has died, and three with two."""
    shapes = [(True, 0), (False, 2), (True, 2), (True, 2), (True, 2)]
    nodes = [{"Alive": alive, "Resources": {"CPU": cpus} if cpus else {}} for alive, cpus in shapes]
    util = SimpleNamespace(remove_placement_group=lambda group: None)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(nodes=lambda: nodes, util=util))
    monkeypatch.setattr(ray_connection, "RayConnection", FakeConnection)
    monkeypatch.setattr(FakeConnection, "made", [])
    return FakeConnection


def test_there_is_an_actor_on_each_node_that_has_room_or_as_many_as_asked(cluster: type[FakeConnection]) -> None:
    with open_pool(PoolOptions("auto"), Needs(2.0)) as pool:
        assert pool.actors == pool.wanted() == 3
        assert cluster.made[0].bundles == [{"CPU": 2.0}] * 3
    assert cluster.made[0].where == "closed"
    with open_pool(PoolOptions("auto", actors=5), Needs(2.0)) as pool:
        assert pool.actors == pool.wanted() == 5
    with open_pool(PoolOptions("local", actors=3), Needs(2.0)):
        assert cluster.made[-1].more == {"nodes": 3, "cpus": 6.0, "insecure": False}


def test_no_room_is_one_line(cluster: type[FakeConnection], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "free", "10.0.0.1 1 of 2 CPU, 512 MiB")
    with pytest.raises(LinkError) as caught, open_pool(PoolOptions("auto", actors=2), Needs(4.0)):
        raise AssertionError("there is no room")
    assert str(caught.value) == (
        "the Ray cluster at 10.0.0.1:6379 has no room for the plan: it needs 2 × (4 CPU); free: 10.0.0.1 1 of 2 CPU, "
        "512 MiB. Free some, start nodes with `ray start --address=…`, or ask for fewer or smaller parties "
        "(--ray-actors, --threads, --workers)"
    )
    assert cluster.made[0].where == "closed"


def test_whatever_ray_raises_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: RayConnection, *given: object) -> str:
        raise TimeoutError("nodes didn't come\n in time")

    monkeypatch.setattr(RayConnection, "_start_nodes", broken)
    monkeypatch.setattr(RayConnection, "_protect", lambda self, token: None)
    monkeypatch.setattr(RayConnection, "close", lambda self: None)
    with pytest.raises(LinkError, match="no local Ray cluster could be started: TimeoutError: in time"):
        RayConnection("local", nodes=1, cpus=1)


def test_no_cluster_here_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(address: str) -> str:
        raise ConnectionError("Could not find any running Ray instance. Please specify `--address`.")

    services = SimpleNamespace(canonicalize_bootstrap_address=none)
    for name, module in (("ray", SimpleNamespace()), ("ray._private", SimpleNamespace())):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "ray._private.services", services)
    with pytest.raises(LinkError, match=r"no Ray cluster can be reached at auto \(none runs on this machine\): start"):
        reachable("auto")
