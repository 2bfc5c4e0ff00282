"""Who has ended is started again; who ends again and again, after pauses."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import pytest

from cutset.cluster.launch.given import GivenAddresses
from cutset.cluster.launch.supervisor import LONGEST_PAUSE, Supervisor
from cutset.cluster.model import Model
from cutset.errors import ConfigError


class Counted:
    """Workers that end when a test says so."""

    def __init__(self) -> None:
        self.names = ["a", "b"]
        self.gone: dict[str, str] = {}
        self.started: list[str] = []
        self.addresses: Mapping[str, tuple[str, bytes | None]] = {}

    def locate(self, name: str) -> tuple[str, bytes | None]:
        return f"ipc:///{name}", None

    def ended(self) -> dict[str, str]:
        return dict(self.gone)

    def start(self, name: str) -> None:
        self.started.append(name)
        self.gone.pop(name)

    def stock(self, model: Model) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[Counted, Supervisor, list[str]]:
    workers, said = Counted(), list[str]()
    monkeypatch.setattr("cutset.cluster.launch.supervisor.TICK", 1e6)  # its thread looks never
    supervisor = Supervisor(workers, said.append)
    supervisor._closed.set()
    return workers, supervisor, said


def test_one_that_ends_is_started_at_once(counted: tuple[Counted, Supervisor, list[str]]) -> None:
    workers, supervisor, said = counted
    supervisor.look(100.0)
    assert not workers.started
    workers.gone["b"] = "killed"
    supervisor.look(100.1)
    assert workers.started == ["b"]
    assert said == ["b has ended: killed; it is started again"]


def test_one_that_ends_again_and_again_waits_ever_longer(counted: tuple[Counted, Supervisor, list[str]]) -> None:
    workers, supervisor, _ = counted
    now, starts = 0.0, list[float]()
    while now < 300:
        workers.gone["a"] = "no library"
        before = len(workers.started)
        supervisor.look(now)
        starts += [now] * (len(workers.started) - before)
        now += 0.25
    pauses = [round(after - before, 2) for before, after in pairwise(starts)]
    assert starts[0] == 0.0
    assert pauses[:6] == [0.5 + 0.25, 1.25, 2.25, 4.25, 8.25, 16.25]
    assert max(pauses) <= LONGEST_PAUSE + 0.25
    assert len(starts) < 16
    assert set(workers.started) == {"a"}  # the other one isn't concerned


def test_after_it_ran_for_a_while_it_is_started_at_once_again(counted: tuple[Counted, Supervisor, list[str]]) -> None:
    workers, supervisor, _ = counted
    for now in (0.0, 1000.0, 2000.0):
        workers.gone["a"] = "killed"
        supervisor.look(now)
    assert workers.started == ["a"] * 3


def test_who_was_started_elsewhere_is_started_there() -> None:
    given = GivenAddresses({"one": ("tcp://1.2.3.4:5", b"k" * 32)})
    assert given.names == ["one"]
    assert given.locate("one") == given.addresses["one"] == ("tcp://1.2.3.4:5", b"k" * 32)
    assert given.ended() == {}
    with pytest.raises(ConfigError, match="start it there again"):
        given.start("one")
    given.close()
