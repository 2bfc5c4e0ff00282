"""Stages, replicas and workers that Ray places show evidence, and the policy goes along: with real parties and links,
on nodes that are names (see `fake_ray`)."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest

from cluster.launch.fake_ray import FakeAttempt, Fakes, until
from cutset.cli import accelerator
from cutset.cluster.launch.ray_launcher import RayLauncher, RayOptions
from cutset.config import load_settings
from cutset.engine import SamplingParams
from cutset.errors import ConfigError, CutsetError, HandshakeError, LinkError
from cutset.link.keys import new_keys, save_keys
from cutset.llm import LLM
from cutset.models.registry import BUNDLED
from cutset.offload.accelerator.placed import PlacedAccelerator
from cutset.serve.replicas.ray_replicas import RayReplicas
from cutset.serve.replicas.replica_scale import ReplicaScale
from cutset.serve.replicas.replica_set import ReplicaTimes
from cutset.serve.replicas.replicated_llm import ReplicatedLLM
from cutset.trust.evidence.link_evidence import verify_by
from cutset.trust.evidence.party_policy import party_evidence
from cutset.trust.evidence.served_files import manifest_digest, served_files
from link.recorder import WRONG, policy_for

FEW = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
SMALL: dict[str, Any] = {"threads": 1, "max_model_len": 64, "max_num_seqs": 2, "cache_mib": 2}
AUTO = RayOptions("auto", insecure=True)


@pytest.fixture(scope="module")
def tokens() -> list[int]:
    with LLM("story", **SMALL) as llm:
        return list(llm.generate("Once", FEW)[0].token_ids)


def staged(policy: Path, **how: Any) -> LLM:
    """An engine on two stages that Ray places."""
    asked = {"stages": 2, "ray": "auto", "insecure_ray": True, "stage_evidence": "simulator", "stage_policy": policy}
    return LLM("story", **(asked | how), **SMALL)


def folder_of(attempt: FakeAttempt) -> Path:
    """Where a party's files are on its node."""
    found = attempt.party._folder
    assert found is not None
    return found


def test_stages_show_it_and_have_the_policy_by_which_they_ask_each_other(
    fakes: Fakes, tmp_path: Path, tokens: list[int]
) -> None:
    """It lies on their nodes while they run, with the collateral that it names; one that is placed again elsewhere has
    it, too, and is asked again."""
    policy = policy_for(tmp_path / "mine.toml", "stage")
    (tmp_path / "collateral").mkdir()
    (tmp_path / "collateral" / "platform.json").write_bytes(b"{}\xff")
    (tmp_path / "other.json").write_text("no business of theirs")
    policy.write_text(policy.read_text() + '[tdx]\ncollateral = "collateral"\n')
    asked: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        judged = verify_by(policy, warn=lambda line: None)

        def verify(evidence: bytes, binding: Any) -> bool:
            asked.append(binding.prover)
            return judged(evidence, binding)

        patch.setattr("cutset.trust.evidence.link_evidence.verify_by", lambda *_, **__: verify)
        llm = staged(policy)
    with llm:
        assert llm.generate("Once", FEW)[0].token_ids == tokens
        assert llm.stages is not None
        launcher = llm.stages.pipeline.workers.launcher
        assert isinstance(launcher, RayLauncher)
        for attempt in fakes.cluster.made:
            files = folder_of(attempt)
            assert files.stat().st_mode & 0o077 == 0
            found = {path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_file()}
            there = {"files/policy.toml", "files/collateral/platform.json", "keys/allowed"}
            assert found == there, "and its pair is in no file any more"
            assert (files / "files" / "policy.toml").read_text() == policy.read_text()
            assert (files / "files" / "collateral" / "platform.json").read_bytes() == b"{}\xff"
            child = attempt.party._child
            assert child is not None
            said = Path(f"/proc/{child.process.pid}/cmdline").read_bytes().split(b"\0")
            assert said[said.index(b"--stage-policy") + 1].decode() == f"{files}/files/policy.toml"
            assert said[said.index(b"--evidence") + 1] == b"simulator"
        before = launcher.addresses
        assert {key for _, key in before.values()} == set(asked)
        fakes.cluster.remove_node(launcher.nodes["stage1"])
        until(lambda: launcher.addresses.get("stage1") not in (None, before["stage1"]))
        until(lambda: launcher.addresses["stage1"][1] in asked)
        assert llm.generate("Once", FEW)[0].token_ids == tokens
    assert fakes.cluster.living() == []
    until(lambda: not any(folder_of(attempt).exists() for attempt in fakes.cluster.made))


@pytest.mark.parametrize("wrong", ["another enclave", "another mode"])
def test_stages_get_nothing_where_it_does_not_fit(
    fakes: Fakes, tmp_path: Path, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cutset.cluster.coordinator.reach.REFUSED", 0.2)
    mode = "accelerator" if wrong == "another mode" else "stage"
    measured = b"other" if wrong == "another enclave" else b"cutset"
    policy = policy_for(tmp_path / "p.toml", mode, measured=measured)
    with pytest.raises(LinkError, match=WRONG[wrong]):
        staged(policy)
    assert fakes.cluster.living() == []


def test_a_node_that_knows_nothing_of_files_starts_no_party(
    fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older Cutset, or a cluster that leaves the policy out: without it a stage would ask the next one nothing."""
    policy, begin = policy_for(tmp_path / "p.toml", "stage"), fakes.cluster.begin

    def forgetting(name: str, order: Any) -> FakeAttempt:
        return begin(name, {key: value for key, value in order.items() if key != "files"})

    monkeypatch.setattr(fakes.cluster, "begin", forgetting)
    with pytest.raises(LinkError, match=r"can't be started: .*policy\.toml"):
        staged(policy)
    assert fakes.cluster.living() == []


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"stage_evidence": ""}, "--stage-evidence says"),
        ({"stage_policy": None}, "nobody asks for it"),
        ({"stage_policy": Path("/nowhere.toml")}, "nowhere"),
    ],
)
def test_what_does_not_go_together(fakes: Fakes, tmp_path: Path, how: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        staged(policy_for(tmp_path / "p.toml", "stage"), **how)
    assert fakes.cluster.made == []


@pytest.mark.parametrize(
    ("place", "match"),
    [("../elsewhere", "can't go along"), (".", "can't go along"), ("many", "more than 256 files")],
)
def test_policies_that_cannot_go_along(tmp_path: Path, place: str, match: str) -> None:
    policy = policy_for(tmp_path / "p.toml", "stage")
    policy.write_text(policy.read_text() + f'[tdx]\ncollateral = "{place}"\n')
    (tmp_path / "many").mkdir()
    for number in range(257):
        (tmp_path / "many" / f"{number}.json").touch()
    with pytest.raises(ConfigError, match=match):
        party_evidence("tdx", "--stage-policy", policy, carried=True)
    assert party_evidence("tdx", "--stage-policy", policy).files == {}


def test_what_a_policy_names_by_an_absolute_path_must_be_there_already(tmp_path: Path) -> None:
    policy = policy_for(tmp_path / "p.toml", "stage")
    policy.write_text(policy.read_text() + f'[tdx]\ncollateral = "{tempfile.gettempdir()}"\n')
    assert list(party_evidence("tdx", "--stage-policy", policy, carried=True).files) == ["policy.toml"]


def test_replicas_show_it(fakes: Fakes, tmp_path: Path, tokens: list[int]) -> None:
    scale, settings = ReplicaScale(2, 2), load_settings(SMALL)
    manifest = manifest_digest(served_files(BUNDLED)).hex()

    def served(policy: Path) -> ReplicatedLLM:
        launcher = RayReplicas("story", settings, AUTO, scale, evidence=party_evidence("simulator"))
        verify, times = verify_by(policy, warn=lambda line: None), ReplicaTimes(refused=0)
        try:
            return ReplicatedLLM(
                "story", launcher, scale, settings=settings, keys=launcher.keys, verify=verify, times=times
            )
        except BaseException:
            launcher.close()
            raise

    llm = served(policy_for(tmp_path / "p.toml", "replica", manifest=manifest))
    try:
        assert len(llm.replicas.states()) == 2
        assert list(asyncio.run(llm.generate("Once", FEW)).token_ids) == tokens
    finally:
        llm.close()
    assert fakes.cluster.living() == []
    with pytest.raises(HandshakeError, match=WRONG["another mode"]):
        served(policy_for(tmp_path / "q.toml", "stage", manifest=manifest))
    assert fakes.cluster.living() == []


def test_an_accelerator_shows_it(fakes: Fakes, tmp_path: Path) -> None:
    """The command hands its flags on to the one that is placed."""
    mine, parser = new_keys(), argparse.ArgumentParser()
    secret, _ = save_keys(mine, "me", tmp_path)
    accelerator.configure(parser)
    words = accelerator._passed_on(parser.parse_args(["story", "--ray", "auto", "--evidence", "simulator"]))
    settings = load_settings({"ray": "auto", "insecure_ray": True})
    policy = policy_for(tmp_path / "p.toml", "accelerator", manifest=manifest_digest(served_files(BUNDLED)).hex())
    with PlacedAccelerator("story", words, frozenset({mine.public}), settings, print) as placed:
        address, key = placed.place
        (tmp_path / "there.pub").write_text(f"{key.hex()} accelerator\n")
        reached = {"offload": address, "key": secret, "accelerator_key": tmp_path / "there.pub"}
        with LLM("story", threads=1, offload_policy=policy, **reached) as llm:
            assert llm.generate("Once", FEW)[0].token_ids
        other = policy_for(tmp_path / "q.toml", "accelerator")
        with pytest.raises(CutsetError, match="manifest"):
            LLM("story", threads=1, offload_policy=other, **reached)
    assert fakes.cluster.living() == []


def test_workers_of_a_stream_show_it_and_ask_each_other(fakes: Fakes, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from cluster.run.pictures import expected, moving, same, small_model
    from cutset.stream import Stream

    pictures, said = moving(6), list[str]()
    how: dict[str, Any] = {"workers": 2, "ray": "auto", "insecure_ray": True, "scheduler": "even", "patience": 60.0}
    how |= {"worker_evidence": "simulator", "worker_policy": policy_for(tmp_path / "p.toml", "worker")}
    with Stream(small_model(), pictures, log=said.append, **how) as stream:
        same(list(stream), expected(pictures))
        assert len(stream.coordinator.plans[-1][1].stages) == 2
    assert sum("NOT CONFIDENTIAL" in line for line in said) == 2
    for party in fakes.cluster.orders[0]["parties"].values():
        assert "{files}/policy.toml" in party["order"]["command"]
    assert fakes.cluster.living() == []
