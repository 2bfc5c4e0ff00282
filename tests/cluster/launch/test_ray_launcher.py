"""A model in stages that Ray places: the same tokens, whatever becomes of nodes, parties and Ray; with real parties and
links, on nodes that are names (see `fake_ray`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cluster.launch.fake_ray import FakeCluster, FakeDriver, Fakes, OnLoopback, until
from cutset.cluster.launch import ray_launcher
from cutset.cluster.launch.party_needs import Needs
from cutset.cluster.launch.ray_launcher import PartyOrder, RayLauncher, RayOptions
from cutset.engine.params import SamplingParams
from cutset.errors import EngineError, LinkError
from cutset.link import Timeouts, connect
from cutset.link.keys import Keys, new_keys
from cutset.llm import LLM

PROMPT, PARAMS = "Once upon a time", SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)
SMALL: dict[str, Any] = {"threads": 1, "max_model_len": 256, "cache_mib": 8}
STAGE = ["cutset.cli", "stage", "story", "--threads", "1"]


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutset.cluster.launch.ray_security.installed", lambda: "2.60.0")


@pytest.fixture(scope="module")
def whole() -> list[int]:
    """The tokens of one process."""
    with LLM("story", **SMALL) as llm:
        return list(llm.generate(PROMPT, PARAMS)[0].outputs[0].token_ids)


@pytest.fixture(scope="module")
def fakes() -> Fakes:
    return Fakes(FakeCluster({"a": 1, "b": 1, "c": 1, "d": 1}))


@pytest.fixture(scope="module")
def llm(fakes: Fakes) -> Iterator[LLM]:
    """Three stages on four nodes of one processor each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cutset.cluster.launch.ray_security.installed", lambda: "2.60.0")
        patch.setattr(ray_launcher, "open_driver", fakes.open)
        with LLM("story", stages=3, ray="auto", insecure_ray=True, **SMALL) as llm:
            yield llm
    assert fakes.cluster.living() == []


def placed(llm: LLM) -> RayLauncher:
    assert llm.stages is not None
    launcher = llm.stages.pipeline.workers.launcher
    assert isinstance(launcher, RayLauncher)
    return launcher


def party_of(fakes: Fakes, launcher: RayLauncher, name: str) -> OnLoopback:
    """What runs on the node."""
    pid = launcher.process_id(name)
    parties = [one.party for one in fakes.cluster.made if one.party._child is not None]
    return next(party for party in parties if party._child is not None and party._child.process.pid == pid)


def admits(launcher: RayLauncher, name: str, keys: Keys) -> bool:
    """Whether a party lets somebody with these keys connect."""
    address, key = launcher.locate(name)
    assert key is not None
    try:
        connect(address, keys=keys.expecting(key), timeouts=Timeouts(connect=1.0)).close()
    except LinkError:
        return False
    return True


def all_in_use(llm: LLM) -> bool:
    assert llm.stages is not None
    plan = llm.stages.pipeline.plan
    return plan is not None and len(plan.stages) == 3


def answer(llm: LLM, disturb: Callable[[], object] | None = None, *, lost: bool = False) -> list[int]:
    """Tokens of an answer, in the middle of which something happens."""
    assert llm.stages is not None
    found, left, before = list[int](), disturb, llm.stages.pipeline.failovers
    for delta in llm.stream(PROMPT, PARAMS):
        found += delta.token_ids
        if left is not None and len(found) >= 10:
            left()
            left = None
    if lost:
        assert llm.stages.pipeline.failovers > before, "the answer was over before anything happened"
    return found


def test_the_same_tokens_and_a_key_of_its_own_for_each(llm: LLM, fakes: Fakes, whole: list[int]) -> None:
    assert answer(llm) == whole
    launcher = placed(llm)
    assert set(launcher.nodes.values()) < set("abcd")
    assert len(set(launcher.nodes.values())) == 3, "they are spread"
    assert len({key for _, key in launcher.addresses.values()}) == 3
    assert all(where.startswith("tcp://127.0.0.1:") for where, _ in launcher.addresses.values())
    [order] = fakes.cluster.orders
    assert list(order["parties"]) == ["stage0", "stage1", "stage2"]
    for party in order["parties"].values():
        assert party["needs"]["cpus"] == 1
        memory = int(party["order"]["command"][party["order"]["command"].index("--memory") + 1])
        assert 0 < memory < party["needs"]["memory"]
        assert "story" not in str(party["order"]["command"]), "weights come over the link, not from a path of ours"
    assert launcher.keys.secret.hex() not in str(order)
    assert admits(launcher, "stage0", launcher.keys)
    assert not admits(launcher, "stage0", new_keys()), "who else is in the cluster has another key"


def test_a_node_goes_in_the_middle_of_an_answer(llm: LLM, fakes: Fakes, whole: list[int]) -> None:
    until(lambda: all_in_use(llm))
    launcher, before = placed(llm), placed(llm).addresses
    node = launcher.nodes["stage1"]
    old = party_of(fakes, launcher, "stage1").keys
    assert old.public == before["stage1"][1]
    assert admits(launcher, "stage2", old), "the one before it is its neighbour"
    assert answer(llm, lambda: fakes.cluster.remove_node(node), lost=True) == whole
    until(lambda: launcher.nodes["stage1"] != node and all_in_use(llm))
    address, key = launcher.locate("stage1")
    assert key != before["stage1"][1]
    assert before["stage1"][1] in launcher.revoked
    assert key not in launcher.revoked
    assert launcher.addresses["stage0"] == before["stage0"]
    assert answer(llm) == whole
    assert party_of(fakes, launcher, "stage1").keys.public == key
    assert not admits(launcher, "stage2", old), "who has the old key is nobody any more"
    assert address.startswith("tcp://127.0.0.1:")


@pytest.mark.slow
def test_a_party_is_killed_in_the_middle_of_an_answer(llm: LLM, fakes: Fakes, whole: list[int]) -> None:
    until(lambda: all_in_use(llm))
    launcher, before = placed(llm), placed(llm).locate("stage2")

    child = party_of(fakes, launcher, "stage2")._child
    assert child is not None
    assert answer(llm, child.process.kill, lost=True) == whole
    until(lambda: all_in_use(llm) and launcher.locate("stage2") != before)
    assert before[1] in launcher.revoked
    assert answer(llm) == whole


@pytest.mark.slow
def test_without_room_the_others_go_on_until_a_node_joins(llm: LLM, fakes: Fakes, whole: list[int]) -> None:
    until(lambda: all_in_use(llm))
    launcher = placed(llm)
    node = launcher.nodes["stage0"]
    assert answer(llm, lambda: fakes.cluster.remove_node(node), lost=True) == whole
    with pytest.raises(LinkError, match="stage0 is nowhere"):
        launcher.locate("stage0")
    assert not all_in_use(llm)
    assert answer(llm) == whole
    fakes.cluster.add_node("new", 1)
    until(lambda: all_in_use(llm))
    assert launcher.nodes["stage0"] == "new"
    assert answer(llm) == whole


@pytest.mark.slow
def test_ray_is_gone_and_comes_back(llm: LLM, fakes: Fakes, whole: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parties go on while their nodes do; a head that is back takes over, and places all of them anew."""
    monkeypatch.setattr(ray_launcher, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(ray_launcher, "open_driver", fakes.open)
    until(lambda: all_in_use(llm))
    launcher, before, old = placed(llm), placed(llm).addresses, fakes.drivers[-1]
    fakes.cluster.head = False
    assert answer(llm, old.die) == whole
    assert launcher.addresses == before
    assert answer(llm) == whole
    fakes.cluster.head = True
    until(lambda: not {key for _, key in launcher.addresses.values()} & {key for _, key in before.values()})
    old.end_parties()
    assert {key for _, key in before.values()} <= launcher.revoked
    assert answer(llm) == whole


def begun(cluster: FakeCluster, count: int = 2, **needs: Any) -> RayLauncher:
    orders = {f"stage{i}": PartyOrder(STAGE, 1, Needs(**needs)) for i in range(count)}
    return RayLauncher(orders, RayOptions("auto", insecure=True), driver=Fakes(cluster).open)


@pytest.mark.slow
def test_who_waits_for_room_does_not_keep_the_others_from_coming_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of those that were added finds no place; another driver places all others anew."""
    monkeypatch.setattr(ray_launcher, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr("cutset.cluster.launch.ray_driver.ROOM", 0.1)
    fakes = Fakes(FakeCluster({"a": 1, "b": 1}))
    order = PartyOrder(STAGE, 1, Needs(1.0))
    launcher = RayLauncher({"first": order}, RayOptions("auto", insecure=True), room=[order.needs], driver=fakes.open)
    try:
        for name in ("second", "third"):
            launcher.add(name, order)
        until(lambda: launcher.addresses.keys() == {"first", "second"})
        before, old = launcher.addresses, fakes.drivers[-1]
        old.die()
        old.end_parties()
        until(lambda: all(launcher.addresses[name] != before[name] for name in before))
        with pytest.raises(LinkError, match="third is nowhere"):
            launcher.locate("third")
        launcher.remove("second")
        until(lambda: fakes.cluster.reserved() == ["first", "third"])  # who came later gives its place back
    finally:
        launcher.close()
    assert fakes.cluster.living() == []


def test_no_room_is_one_line_with_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster({"a": 1, "b": 0.5})
    with pytest.raises(LinkError, match=r"needs 2 × \(1 CPU, 512 MiB\); free: a 0 of 1 CPU; b 0.5") as caught:
        begun(cluster, memory=512 << 20)
    assert "\n" not in str(caught.value)
    assert cluster.closed == 1
    assert cluster.made == []


def test_a_cluster_that_is_not_there_is_said_at_once() -> None:
    with pytest.raises(LinkError, match="no Ray cluster can be reached"):
        begun(FakeCluster({}, answers="no Ray cluster can be reached at head:1: start it"))


def test_a_cluster_that_does_not_answer_is_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(FakeDriver):
        def ask(self, command: Any) -> None:
            """It hangs."""

    monkeypatch.setattr(ray_launcher, "CONNECTING", 0.2)
    orders = {"stage0": PartyOrder(STAGE, 1, Needs())}
    with pytest.raises(LinkError, match="didn't answer within"):
        RayLauncher(orders, RayOptions("auto"), driver=lambda: Silent(FakeCluster({"a": 1})))


def test_a_party_that_cannot_start_says_why_and_nobody_stays() -> None:
    cluster = FakeCluster({"a": 2})
    orders = {"stage0": PartyOrder(["cutset.cli", "stage", "--no-such-flag"], 1, Needs())}
    with pytest.raises(LinkError, match=r"stage0 can't be started: .*no-such-flag"):
        RayLauncher(orders, RayOptions("auto"), driver=Fakes(cluster).open)
    assert cluster.living() == []


class Scripted:
    """A driver that says what a test wants, and starts nobody."""

    def __init__(self, *events: dict[str, Any]) -> None:
        self._events = [{"event": "placed", "where": "a cluster"}, *events]

    def ask(self, command: Any) -> None: ...

    def answer(self) -> dict[str, Any]:
        if not self._events:
            raise EngineError("Ray's driver ended with 0")
        return self._events.pop(0)

    def end(self, patience: float = 1.0) -> None: ...


GOOD = {"event": "up", "name": "stage0", "address": "tcp://10.0.0.1:7000", "key": "ab" * 32, "node": "a", "pid": 7}


@pytest.mark.parametrize(
    "lie",
    [
        {"key": "00"},
        {"key": "Z" * 64},
        {"address": "ipc:///tmp/x"},
        {"address": "nonsense"},
        {"name": "stage1"},
    ],
    ids=str,
)
def test_what_the_cluster_says_of_keys_is_looked_at(lie: dict[str, str]) -> None:
    """The last: two parties with one key."""
    orders = {f"stage{i}": PartyOrder(STAGE, 1, Needs()) for i in range(2)}
    with pytest.raises(LinkError, match="not a new key of its own"):
        RayLauncher(orders, RayOptions("auto"), driver=lambda: Scripted(GOOD, GOOD | lie))


def test_a_key_that_was_revoked_does_not_come_back() -> None:
    other = GOOD | {"key": "cd" * 32}
    gone = {"event": "gone", "name": "stage0", "why": "its node is gone"}
    said: list[str] = []
    events = [GOOD, gone, other, gone, GOOD]
    with pytest.raises(LinkError, match="can't be started"):
        RayLauncher(
            {"stage0": PartyOrder(STAGE, 1, Needs()), "stage1": PartyOrder(STAGE, 1, Needs())},
            RayOptions("auto"),
            driver=lambda: Scripted(*events),
            log=said.append,
        )
    until(lambda: "stage0: its address and key aren't believed" in said)


def test_what_a_cluster_says_ends_no_terminal_line() -> None:
    said: list[str] = []
    order = {"stage0": PartyOrder(STAGE, 1, Needs())}
    RayLauncher(
        order, RayOptions("auto"), driver=lambda: Scripted(GOOD | {"node": "a\x1b[2Jb"}), log=said.append
    ).close()
    assert said[1] == "stage0 runs on a\ufffd[2Jb"
