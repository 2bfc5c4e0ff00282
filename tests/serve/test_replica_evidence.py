"""Replicas that show evidence, and fronts that want it before a prompt goes out."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from cutset.cli import main
from cutset.cli.serve_evidence import mode_of
from cutset.cli.serve_replicas import open_served
from cutset.config import load_settings
from cutset.engine.params import SamplingParams
from cutset.errors import CutsetError, EvidenceError, HandshakeError
from cutset.link import listen
from cutset.link.keys import Keys, new_keys, save_keys
from cutset.link.launch import PIPE, Child, environment
from cutset.link.peer import is_hello
from cutset.llm import AsyncLLM
from cutset.models.files.fingerprint import fingerprint
from cutset.models.files.source import open_source
from cutset.models.registry import BUNDLED
from cutset.serve.replicas.replica import Replica
from cutset.serve.replicas.replica_launchers import GivenReplicas, LocalReplicas, _LocalReplica
from cutset.serve.replicas.replica_messages import LIMITS, REPLICA_HANDSHAKE, ReplicaFacts, pack
from cutset.serve.replicas.replica_scale import ReplicaScale
from cutset.serve.replicas.replica_set import ReplicaTimes
from cutset.serve.replicas.replicated_llm import ReplicatedLLM
from cutset.trust.audit import AuditLog
from cutset.trust.evidence.link_evidence import verify_by
from cutset.trust.evidence.served_files import manifest_digest, served_files
from cutset.trust.evidence.transport import AttestedTransport
from link.recorder import WRONG, Recorder, policy_for, shown
from tests.serve.certificates import Authority
from tests.serve.fake_replicas import until

FEW = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
PROMPT = "Once upon a time"
SMALL = {"threads": 1, "cache_mib": 2, "max_model_len": 64}
ONE = ReplicaScale(1, 1)
QUICK = ReplicaTimes(starting=10, refused=0)


def story(mode: str, place: Path, **how: Any) -> Path:
    """A policy for who has loaded the bundled model."""
    return policy_for(place, mode, manifest=manifest_digest(served_files(BUNDLED)).hex(), **how)


@pytest.fixture(scope="module")
def tokens() -> list[int]:
    """Of one engine."""
    llm = AsyncLLM("story", settings=load_settings(SMALL))
    try:
        return list(asyncio.run(llm.generate(PROMPT, FEW)).token_ids)
    finally:
        llm.close()


def args_of(**given: Any) -> argparse.Namespace:
    """The flags of `cutset serve` that say who runs the model."""
    asked: dict[str, Any] = {"replica_keys": None, "replica_policy": None, "replica_evidence": "", "trace": None}
    return argparse.Namespace(**(asked | given))


@contextlib.contextmanager
def served(
    settings: dict[str, Any], audit: AuditLog | None = None, **given: Any
) -> Iterator[tuple[AsyncLLM, list[str]]]:
    """What `cutset serve` opens, and what it says."""
    said: list[str] = []
    llm = open_served(args_of(**given), "story", load_settings(SMALL | settings), {}, None, said.append, audit)
    try:
        yield llm, said
    finally:
        llm.close()


def test_replicas_that_are_started_here_show_it(tmp_path: Path, tokens: list[int]) -> None:
    how = {"replicas": "2", "replica_evidence": "simulator", "replica_policy": story("replica", tmp_path / "p.toml")}
    with served({"threads": 2}, **how) as (llm, said):
        assert isinstance(llm, ReplicatedLLM)
        assert mode_of(llm) == "replicas"
        found = [asyncio.run(llm.generate(PROMPT, FEW)).token_ids for _ in range(3)]
        assert [list(one) for one in found] == [tokens] * 3
        with llm.replicas._lock:
            launched = [one.launched for one in llm.replicas._up.values()]
        assert len({one.key for one in launched}) == 2
        assert all(one.address.startswith("tcp://127.0.0.1:") for one in launched)
        assert isinstance(llm.replicas._launcher, LocalReplicas)
        directory = llm.replicas._launcher.directory
        assert not list(directory.rglob("*.key")), "whoever has read its pair has it alone"
    assert sum("NOT CONFIDENTIAL: the evidence of" in line for line in said) == 2, "of each replica once"
    assert not directory.exists()


def test_one_that_is_lost_comes_back_with_another_key_and_is_asked_again(tmp_path: Path, tokens: list[int]) -> None:
    how = {"replicas": "1", "replica_evidence": "simulator", "replica_policy": story("replica", tmp_path / "p.toml")}
    with served({}, **how) as (llm, said):
        assert isinstance(llm, ReplicatedLLM)
        [before] = llm.replicas._up.values()
        assert isinstance(before.launched, _LocalReplica)
        os.kill(before.launched.pid, signal.SIGKILL)
        until(lambda: before not in llm.replicas._up.values() and llm.replicas.ready, 60)
        [after] = llm.replicas._up.values()
        assert after.launched.key != before.launched.key
        assert list(asyncio.run(llm.generate(PROMPT, FEW)).token_ids) == tokens
    assert sum("NOT CONFIDENTIAL: the evidence of" in line for line in said) == 2, "once of each key"


def test_those_that_are_started_here_get_nothing_where_it_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, audit = story("replica", tmp_path / "p.toml", measured=b"other"), AuditLog(tmp_path / "audit")
    monkeypatch.setattr("cutset.serve.replicas.replica_set.ReplicaTimes", lambda **how: QUICK)
    how = {"replicas": "1", "replica_evidence": "simulator", "replica_policy": policy}
    with pytest.raises(HandshakeError, match=WRONG["another enclave"]), served({}, audit, **how):
        pass
    lines = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    assert {line["event"] for line in lines} == {"refused"}
    assert re.search(WRONG["another enclave"], lines[0]["reason"])


def recorded(mine: Keys, wrong: str) -> Recorder:
    model = fingerprint(open_source(BUNDLED["story"]).tensors)
    facts = ReplicaFacts(model, "native", "float32", "cpu", 1, 64, 1024, 4, 64, [])
    return Recorder(shown(REPLICA_HANDSHAKE, "replica", wrong), mine, LIMITS, then=lambda link: pack(link, facts))


@pytest.mark.parametrize("wrong", ["", *WRONG])
def test_on_the_wire_no_prompt_leaves_before_the_evidence_fits(wrong: str, tmp_path: Path) -> None:
    """Where it fits, the prompt's ids do, so that this test would see them."""
    mine = new_keys()
    secret, _ = save_keys(mine, "front", tmp_path)
    verify = verify_by(policy_for(tmp_path / "p.toml", "replica"), warn=lambda line: None)
    settings = load_settings({"threads": 1, "key": secret})
    with recorded(mine, wrong).running() as replica, contextlib.ExitStack() as stack:
        launcher = GivenReplicas([(replica.address, replica.keys.public)])

        def front() -> ReplicatedLLM:
            return ReplicatedLLM("story", launcher, ONE, settings=settings, times=QUICK, verify=verify)

        if wrong:
            with pytest.raises(HandshakeError, match=WRONG[wrong]):
                front()
        else:
            llm = front()
            stack.callback(llm.close)
            ids = llm.encode(PROMPT)
            llm.submit(ids, FEW, on_delta=lambda delta: None)
            asked = np.asarray(ids, dtype="<i4").tobytes()
            until(lambda: any(asked in frame for frame in replica.frames))
    assert replica.hellos
    assert all(map(is_hello, replica.frames)) == bool(wrong)


def test_replicas_at_addresses_are_asked_each_time_that_they_are_dialled(tmp_path: Path, tokens: list[int]) -> None:
    """One that shows evidence serves those who don't ask, too; one that shows none gets nothing of a front that asks,
    and the others serve."""
    ours, theirs, bare = new_keys(), new_keys(), new_keys()
    for name, pair in (("front", ours), ("one", theirs), ("two", bare)):
        save_keys(pair, name, tmp_path)
    prove = shown(REPLICA_HANDSHAKE, "replica").prove
    with contextlib.ExitStack() as stack:
        places = []
        for pair, proves in ((theirs, prove), (bare, None)):
            llm = AsyncLLM("story", settings=load_settings(SMALL))
            stack.callback(llm.close)
            listener = listen("tcp://127.0.0.1:0", keys=pair, allow={ours.public}, limits=LIMITS)
            replica, over = Replica(llm, listener, pair, prove=proves), threading.Event()
            thread = threading.Thread(target=replica.serve, args=(over.is_set,))
            thread.start()
            stack.callback(replica.close)
            stack.callback(thread.join)
            stack.callback(over.set)
            places.append(listener.address)
        how: dict[str, Any] = {
            "replicas": ",".join(places),
            "replica_keys": f"{tmp_path / 'one.pub'},{tmp_path / 'two.pub'}",
            "replica_policy": policy_for(tmp_path / "p.toml", "replica"),
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("cutset.serve.replicas.replica_set.ReplicaTimes", lambda **more: QUICK)
            with served({"key": tmp_path / "front.key"}, **how) as (front, said):
                assert isinstance(front, ReplicatedLLM)
                assert [state.name for state in front.replicas.states()] == ["replica1"]
                assert list(asyncio.run(front.generate(PROMPT, FEW)).token_ids) == tokens
                until(lambda: any(re.search(rf"replica2 couldn't be started.*{WRONG['none']}", line) for line in said))
        alone = {"replicas": places[0], "replica_keys": str(tmp_path / "one.pub")}
        with served({"key": tmp_path / "front.key"}, **alone) as (front, _):
            assert list(asyncio.run(front.generate(PROMPT, FEW)).token_ids) == tokens


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--replica-policy", "p"], "--replica-policy is for replicas"),
        (["--replica-evidence", "tdx"], "--replica-evidence is for replicas"),
        (["--replicas", "2", "--replica-policy", "p"], "--replica-evidence says"),
        (["--replicas", "2", "--replica-evidence", "tdx"], "nobody asks for it"),
        (["--replicas", "ipc:///tmp/x", "--replica-policy", "p"], "ipc:///tmp/x has none"),
        (["--replicas", "tcp://h:1", "--replica-evidence", "tdx"], "start those at addresses with --evidence tdx"),
        (["--replicas", "2", "--replica-policy", "/nowhere.toml", "--replica-evidence", "simulator"], "nowhere"),
        (["--replicas", "2", "--evidence", "simulator"], "say with --replica-policy"),
        (["--model", "story", "--replica-policy", "p"], "for one model"),
    ],
)
def test_flags_that_promise_nothing(flags: list[str], match: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "story", "--port", "0", *flags]) == 2
    said = capsys.readouterr().err
    assert match in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--listen", "ipc:///tmp/x", "--evidence", "simulator"], "tcp://"),
        (["--listen", "ipc:///tmp/x", "--evidence-root", "/x"], "--evidence"),
        (["--listen", "tcp://127.0.0.1:0", "--evidence", "tdx", "--evidence-root", "/nowhere"], "isn't there"),
    ],
)
def test_a_replica_promises_no_more_than_it_can(
    words: list[str], match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replica", "story", *words]) == 2
    said = capsys.readouterr().err
    assert match in said
    assert len(said.splitlines()) == 1


def test_a_replica_in_stages_says_so_and_its_stages_are_asked_by_it(tmp_path: Path, tokens: list[int]) -> None:
    """What the front wants of replicas and what replicas want of stages are two policies."""
    how = {"replicas": "1", "replica_evidence": "simulator"}
    replica = story("replica, stages", tmp_path / "replica.toml")
    stage = story("stage", tmp_path / "stage.toml")
    staged: dict[str, Any] = {"stages": 2, "stage_policy": stage, "stage_evidence": "simulator"}
    with served(staged, **how, replica_policy=replica) as (llm, said):
        assert list(asyncio.run(llm.generate(PROMPT, FEW)).token_ids) == tokens
    assert sum("NOT CONFIDENTIAL: the evidence of" in line for line in said) == 3, "of it and of its two stages"
    wrong = staged | {"stage_policy": story("stage", tmp_path / "wrong.toml", measured=b"other")}
    with pytest.raises(CutsetError, match=WRONG["another enclave"]), served(wrong, **how, replica_policy=replica):
        pass


def test_a_front_that_asks_its_replicas_shows_evidence_of_its_own(tmp_path: Path) -> None:
    """The command, from end to end: a client asks the front, and the front has asked the replica."""
    Authority(tmp_path).write(tmp_path / "tls.pem", tmp_path / "tls.key")
    asks = story("replicas", tmp_path / "client.toml")
    asks.write_text(asks.read_text().replace('certificate = "authority"', 'certificate = "evidence"'))
    other = tmp_path / "other.toml"
    other.write_text(asks.read_text().replace('modes = ["replicas"]', 'modes = ["none"]'))
    words = ["serve", "story", "--port", "0", "--threads", "1", "--cache-mib", "2", "--replicas", "1"]
    words += ["--replica-evidence", "simulator", "--replica-policy", str(story("replica", tmp_path / "replica.toml"))]
    words += [
        "--evidence",
        "simulator",
        "--tls-cert",
        str(tmp_path / "tls.pem"),
        "--tls-key",
        str(tmp_path / "tls.key"),
    ]
    child = Child("the server", ["cutset.cli", *words], env=environment(1), stderr=PIPE)
    try:
        url = child.until(r"at (https://\S+)/v1;")[1]
        body = {"model": "story", "prompt": PROMPT, "max_tokens": 4}
        with httpx.Client(transport=AttestedTransport(asks), timeout=60) as client:
            assert client.post(f"{url}/v1/completions", json=body).json()["usage"]["completion_tokens"] == 4
        with (
            httpx.Client(transport=AttestedTransport(other), timeout=60) as client,
            pytest.raises(EvidenceError, match="mode 'replicas'"),
        ):
            client.post(f"{url}/v1/completions", json=body)
    finally:
        child.end(10)
