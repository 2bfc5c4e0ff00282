"""What is done about a cluster whose head is gone, without Ray."""

from __future__ import annotations

import socket

import pytest

from cutset.cluster.launch import ray_connection
from cutset.cluster.launch.ray_connection import RayConnection
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
