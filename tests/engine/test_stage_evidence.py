"""Stages that show evidence, and engines and stages that want it before weights or hidden states go out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cutset.cli import main
from cutset.config import load_settings
from cutset.engine import SamplingParams
from cutset.errors import ConfigError, LinkError
from cutset.llm import LLM
from cutset.models.registry import BUNDLED
from cutset.trust.audit import AuditLog
from cutset.trust.evidence.served_files import manifest_digest, served_files
from engine.stage_processes import Stages, running, until, workers_of
from link.recorder import policy_for

FEW = SamplingParams(max_tokens=6, temperature=0)
SMALL: dict[str, Any] = {"threads": 1, "max_model_len": 64, "max_num_seqs": 2, "cache_mib": 2}
SHOWS = ["--evidence", "simulator"]


def policy(place: Path, *, measured: bytes = b"cutset", mode: str = "stage", manifest: str = "") -> Path:
    """What a simulated stage without a model fits."""
    return policy_for(place, mode, measured=measured, manifest=manifest)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("proving")
    policy(found / "good.toml")
    return found


@pytest.fixture(scope="module")
def stages(folder: Path) -> Iterator[Stages]:
    """They have no model: weights are sent. `a` wants evidence of the stage behind it; `bare` shows none."""
    found = Stages(folder, tcp=True)
    found.extra = {"a": [*SHOWS, "--stage-policy", str(folder / "good.toml")], "b": SHOWS, "bare": []}
    try:
        found.start("a", "b", "bare")
        yield found
    finally:
        found.close()


def test_weights_and_hidden_states_go_to_stages_whose_evidence_fits(
    stages: Stages, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with LLM("story", **SMALL) as one:
        wanted = one.generate("Once", FEW)[0].token_ids
    with LLM("story", **stages.settings("a", "b"), stage_policy=folder / "good.toml", **SMALL) as llm:
        assert llm.generate("Once", FEW)[0].token_ids == wanted
        assert len(workers_of(llm)) == 2
    said = [record.message for record in caplog.records if "NOT CONFIDENTIAL" in record.message]
    assert len(said) == 2, "of each stage once, however many links there are"


@pytest.mark.parametrize(
    ("name", "how", "match"),
    [
        ("bare", {}, "shows no evidence, and it is required"),
        ("a", {"measured": b"other"}, "its measurement .* isn't one that the policy allows"),
        ("a", {"mode": "accelerator"}, "its mode 'stage' isn't one that the policy allows"),
    ],
)
def test_and_to_no_other(
    stages: Stages, tmp_path: Path, name: str, how: dict[str, Any], match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cutset.cluster.coordinator.reach.REFUSED", 0.2)
    wanted, audit = policy(tmp_path / "p.toml", **how), AuditLog(tmp_path / "audit")
    said = "serves another coordinator"
    while "serves another coordinator" in said:  # the one of the test before may still be leaving
        with pytest.raises(LinkError) as refused:
            LLM("story", **stages.settings(name), stage_policy=wanted, audit=audit, **SMALL)
        said = str(refused.value)
    assert re.search(match, said)
    assert stages.places[name] in said, "it is named"
    if how:
        lines = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
        assert {line["event"] for line in lines} == {"refused"}
        assert re.search(match, lines[0]["reason"])


def test_a_stage_hands_nothing_to_one_without_evidence(stages: Stages) -> None:
    """The engine doesn't ask here; the first stage does, and does all of it alone."""
    with LLM("story", **stages.settings("a", "bare"), **SMALL) as llm:
        assert llm.generate("Once", FEW)[0].token_ids
        assert workers_of(llm) == [stages.places["a"]]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"stages": 2, "stage_keys": [], "key": None}, "processes on this machine, .* --stage-evidence says"),
        ({"stages": ["ipc:///tmp/x"], "stage_keys": []}, "ipc:///tmp/x has none"),
        ({"stage_evidence": "simulator"}, "start those at addresses with --evidence simulator"),
        ({"stages": 2, "stage_keys": [], "stage_evidence": "tdx", "stage_policy": None}, "nobody asks for it"),
        ({"stages": [], "stage_keys": []}, "--stage-policy is for stages"),
        ({"stage_policy": Path("/nowhere.toml")}, "nowhere"),
    ],
)
def test_settings_that_promise_nothing(stages: Stages, folder: Path, change: dict[str, Any], match: str) -> None:
    right = stages.settings("a") | {"stage_policy": folder / "good.toml"}
    with pytest.raises(ConfigError, match=match):
        LLM("story", **(right | change), **SMALL)


def test_a_policy_comes_from_no_file_left_from_before(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?i)stage_policy"):
        load_settings({}, environ={"CUTSET_STAGE_POLICY": "p.toml"})
    (tmp_path / "cutset.toml").write_text('stage_policy = "p.toml"\n')
    with pytest.raises(ConfigError, match="stage_policy"):
        load_settings({}, environ={}, cwd=tmp_path)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--listen", "shm://x", "--evidence", "simulator"], "tcp://"),
        (["--listen", "ipc:///tmp/x", "--stage-policy", "p"], "over tcp"),
        (["--listen", "shm://x", "--evidence-root", "/x"], "--evidence"),
        (["--listen", "tcp://127.0.0.1:0", "--evidence", "tdx", "--evidence-root", "/nowhere"], "isn't there"),
        (["--listen", "tcp://127.0.0.1:0", "--stage-policy", "/nowhere.toml"], "nowhere"),
        (["--status", "tcp://127.0.0.1:1", "--evidence", "simulator"], "leave them out of --status"),
    ],
)
def test_flags_that_promise_nothing(words: list[str], match: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage", *words]) == 2
    said = capsys.readouterr().err
    assert match in said
    assert len(said.splitlines()) == 1


@pytest.mark.slow
def test_one_that_dials_in_is_asked_too(tmp_path: Path) -> None:
    good, other = policy(tmp_path / "good.toml"), policy(tmp_path / "other.toml", measured=b"other")
    with running(tmp_path, "j", joins=["j"], model="", extra=SHOWS) as found:
        right = found.settings("j")
        with LLM("story", **right, stage_policy=good, **SMALL) as llm:
            assert llm.generate("Once", FEW)[0].token_ids
        with pytest.raises(LinkError, match="its measurement"):
            LLM("story", **right, stage_policy=other, **SMALL)


def test_a_stage_with_evidence_serves_who_does_not_ask(stages: Stages) -> None:
    with LLM("story", **stages.settings("b"), **SMALL) as llm:
        assert llm.generate("Once", FEW)[0].token_ids


def test_stages_that_are_started_here_show_it_and_ask_each_other(tmp_path: Path) -> None:
    """Over tcp, with keys that are made for them; of the model that they read from this machine's disk."""
    with LLM("story", **SMALL) as one:
        wanted = one.generate("Once", FEW)[0].token_ids
    fits = policy(tmp_path / "p.toml", manifest=manifest_digest(served_files(BUNDLED)).hex())
    with LLM("story", stages=2, spares=1, stage_policy=fits, stage_evidence="simulator", **SMALL) as llm:
        assert llm.generate("Once", FEW)[0].token_ids == wanted
        assert len(workers_of(llm)) == 2
        assert llm.stages is not None
        local = llm.stages.local
        assert local is not None
        assert all(where.startswith("tcp://127.0.0.1:") for where, _ in local.addresses.values())
        assert len({key for _, key in local.addresses.values()}) == 3
        commands = [Path(f"/proc/{local.process(name).pid}/cmdline").read_bytes() for name in local.names]
        assert all(f"--stage-policy\0{fits}\0".encode() in command for command in commands)
        before = local.locate(local.names[1])
        local.process(local.names[1]).kill()
        until(lambda: local.addresses.get(local.names[1], before) != before)
        assert llm.generate("Once", FEW)[0].token_ids == wanted
        directory = local.directory
    assert not directory.exists()


def test_and_get_nothing_where_it_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutset.cluster.coordinator.reach.REFUSED", 0.2)
    other = policy(tmp_path / "p.toml", measured=b"other", manifest=manifest_digest(served_files(BUNDLED)).hex())
    with pytest.raises(LinkError, match=r"its measurement .* isn't one that the policy allows"):
        LLM("story", stages=2, stage_policy=other, stage_evidence="simulator", **SMALL)
