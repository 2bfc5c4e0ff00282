"""Replicas that Ray places: answers of one engine, whatever becomes of nodes and Ray; with real parties and links, on
nodes that are names (see `fake_ray`)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.launch.fake_ray import Fakes, until
from cutset.cli import main
from cutset.cluster.launch import ray_launcher
from cutset.cluster.launch.ray_launcher import RayOptions
from cutset.config import load_settings
from cutset.engine.params import SamplingParams
from cutset.errors import ConfigError, CutsetError, LinkError
from cutset.llm import LLM
from cutset.serve.replicas.ray_replicas import RayReplicas
from cutset.serve.replicas.replica_scale import ReplicaScale
from cutset.serve.replicas.replicated_llm import ReplicatedLLM

PROMPT, PARAMS = "Once upon a time", SamplingParams(temperature=0.9, seed=7, max_tokens=200, ignore_eos=True)
SETTINGS = load_settings({"threads": 1, "max_model_len": 256, "cache_mib": 8})
AUTO = RayOptions("auto", insecure=True)


@pytest.fixture(scope="module")
def whole() -> list[int]:
    """The tokens of one engine."""
    with LLM("story", settings=SETTINGS) as llm:
        return list(llm.generate(PROMPT, PARAMS)[0].outputs[0].token_ids)


@contextlib.contextmanager
def placed(scale: ReplicaScale, options: RayOptions = AUTO) -> Iterator[tuple[ReplicatedLLM, RayReplicas, list[str]]]:
    said: list[str] = []
    launcher = RayReplicas("story", SETTINGS, options, scale, report=said.append)
    try:
        llm = ReplicatedLLM("story", launcher, scale, settings=SETTINGS, keys=launcher.keys, report=said.append)
        try:
            yield llm, launcher, said
        finally:
            llm.close()
    finally:
        launcher.close()


class Answer:
    """One that comes, in the middle of which something may happen."""

    def __init__(self, llm: ReplicatedLLM, disturb: Callable[[], object] | None = None) -> None:
        self.tokens: list[int] = []
        self.end = ""
        self._disturb = disturb
        llm.submit(llm.encode(PROMPT), PARAMS, on_delta=self._take)

    def _take(self, delta: Any) -> None:
        self.tokens += delta.token_ids
        self.end = delta.finish_reason or self.end
        if self._disturb is not None and len(self.tokens) >= 10:
            disturb, self._disturb = self._disturb, None
            disturb()

    def whole(self) -> list[int]:
        until(lambda: self.end)
        assert self.end == "length"
        return self.tokens


def node_of(llm: ReplicatedLLM, launcher: RayReplicas) -> str:
    """Where something runs."""
    busy = [state.name for state in llm.replicas.states() if state.samples]
    return launcher.placed.nodes[busy[0]]


def test_a_node_goes_in_the_middle_of_an_answer(
    fakes: Fakes, whole: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Placed on two nodes, each with a key of its own; another node takes the lost one's place, with another key."""
    secrets = {"CUTSET_API_KEY": "clients-send-it", "RAY_AUTH_TOKEN": "nodes-have-it"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    with placed(ReplicaScale(2, 2)) as (llm, launcher, said):
        ray, before = launcher.placed, launcher.placed.addresses
        assert len(set(ray.nodes.values())) == 2
        assert len({key for _, key in before.values()}) == 2
        for party in fakes.cluster.orders[0]["parties"].values():
            assert party["order"]["command"][:3] == ["cutset.cli", "replica", "story"]
            assert ray.keys.secret.hex() not in str(party)
        for pid in fakes.cluster.living():
            environ = Path(f"/proc/{pid}/environ").read_bytes()
            assert not any(value.encode() in environ for value in secrets.values())
        gone: list[str] = []

        def remove() -> None:
            gone.append(node_of(llm, launcher))
            fakes.cluster.remove_node(gone[0])

        assert Answer(llm, remove).whole() == whole
        assert llm.replicas.resumed == 1
        until(lambda: len(llm.replicas.states()) == 2)
        assert gone[0] not in ray.nodes.values()
        [moved] = [name for name, place in ray.addresses.items() if place != before[name]]
        assert before[moved][1] in ray.revoked
        assert Answer(llm).whole() == whole
        assert any("was lost" in line for line in said)
    assert fakes.cluster.living() == []


@pytest.mark.slow
def test_without_room_the_others_go_on_until_a_node_joins(fakes: Fakes, whole: list[int]) -> None:
    with placed(ReplicaScale(3, 3)) as (llm, launcher, _):
        assert Answer(llm, lambda: fakes.cluster.remove_node(node_of(llm, launcher))).whole() == whole
        assert len(llm.replicas.states()) == 2
        assert Answer(llm).whole() == whole
        fakes.cluster.add_node("new", 1)
        until(lambda: len(llm.replicas.states()) == 3)
        assert "new" in launcher.placed.nodes.values()
    assert fakes.cluster.living() == []


@pytest.mark.slow
def test_places_are_taken_when_requests_wait_and_given_back(fakes: Fakes, whole: list[int]) -> None:
    scale = ReplicaScale(1, 2, up_s=0.1, down_s=0.5)
    with placed(scale) as (llm, launcher, said):
        assert fakes.cluster.reserved() == ["replica1"]
        answers = [Answer(llm) for _ in range(4 * SETTINGS.max_num_seqs)]
        until(lambda: "replica2" in fakes.cluster.reserved())
        until(lambda: len(llm.replicas.states()) == 2)
        assert len(set(launcher.placed.nodes.values())) == 2
        for one in answers:
            assert one.whole() == whole
        until(lambda: len(llm.replicas.states()) == 1)
        until(lambda: len(fakes.cluster.living()) == 1)
        assert "replica1" in fakes.cluster.reserved(), "the first keeps its place"
        assert any("takes no more requests" in line for line in said)
    assert fakes.cluster.living() == []


@pytest.mark.slow
def test_ray_is_gone_and_comes_back(fakes: Fakes, whole: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas go on while their nodes do; a head that is back places others, which take over when they end."""
    monkeypatch.setattr(ray_launcher, "FIRST_PAUSE", 0.1)
    with placed(ReplicaScale(1, 1)) as (llm, launcher, _):
        old, before = fakes.drivers[-1], launcher.placed.locate("replica1")
        fakes.cluster.head = False
        assert Answer(llm, old.die).whole() == whole
        assert Answer(llm).whole() == whole
        assert llm.replicas.lost == 0
        fakes.cluster.head = True
        until(lambda: launcher.placed.addresses["replica1"] != before)
        now = launcher.placed.locate("replica1")
        assert Answer(llm, old.end_parties).whole() == whole
        assert llm.replicas.resumed == 1
        until(lambda: len(llm.replicas.states()) == 1)
        assert launcher.placed.addresses["replica1"][1] not in launcher.placed.revoked
        assert now != before
    assert fakes.cluster.living() == []


@pytest.mark.slow
def test_a_replica_that_cannot_start_says_why_and_nobody_stays(fakes: Fakes) -> None:
    with pytest.raises(LinkError, match=r"replica1 can't be started: .*nowhere"):
        RayReplicas("story", SETTINGS, AUTO, ReplicaScale(1, 1), adapters={"tale": "/nowhere"})
    assert fakes.cluster.living() == []


def test_no_room_is_one_line_with_what_is_free(fakes: Fakes) -> None:
    options = replace(AUTO, places=["replica1=cpu:50"])
    with pytest.raises(LinkError, match=r"needs 1 × \(50 CPU.*free: a") as caught:
        RayReplicas("story", SETTINGS, options, ReplicaScale(2, 2))
    assert "\n" not in str(caught.value)
    assert fakes.cluster.made == []


@pytest.mark.parametrize(
    ("places", "words"),
    [(["stage0=cpu:1"], "there is no 'stage0'"), (["replica1=memory:1MiB"], r"replica1 needs .* MiB for the model")],
)
def test_places_that_cannot_be(fakes: Fakes, places: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RayReplicas("story", SETTINGS, replace(AUTO, places=places), ReplicaScale(2, 2))


def test_memory_by_hand_is_shared_with_the_cache(fakes: Fakes) -> None:
    """A replica is told how large its cache may be: what is left of its memory."""
    settings = load_settings({"threads": 1, "max_model_len": 256})
    fakes.cluster.answers = "enough is known"
    with pytest.raises(CutsetError, match="enough is known"):
        RayReplicas("story", settings, replace(AUTO, places=["replica1=memory:2GiB"]), ReplicaScale(1, 2))
    [order] = fakes.cluster.orders
    [party] = order["parties"].values()
    words = party["order"]["command"]
    assert party["needs"]["memory"] == 2 << 30
    assert 1500 < int(words[words.index("--cache-mib") + 1]) < 2048 - 192
    assert list(order["parties"]) == ["replica1"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--ray", "auto"], "--replicas N or --stages N"),
        (["--ray", "auto", "--replicas", "ipc:///tmp/x"], "--replicas N"),
        (["--place", "replica1=cpu:1", "--replicas", "2"], "--place is for --ray"),
        (["--ray", "auto", "--replicas", "2", "--key", "me.key"], "--key and --ray don't go together"),
        (["--ray", "auto", "--replicas", "none"], "--replicas 'none' can't be used"),
    ],
)
def test_what_does_not_go_together(
    fakes: Fakes, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "story", "--port", "0", "--insecure-ray", *flags]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
