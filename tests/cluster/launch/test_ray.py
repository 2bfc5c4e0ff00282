"""Real Ray: several nodes on this machine, by ray.cluster_utils.Cluster. Starting it takes tens of seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from cluster.launch.fake_ray import lives, until
from cluster.launch.ray_processes import TOKEN, Nodes
from cutset.cluster.launch.ray_launcher import RayLauncher
from cutset.engine.params import SamplingParams
from cutset.errors import CutsetError, LinkError
from cutset.llm import LLM
from cutset.models.registry import BUNDLED
from cutset.trust.evidence.served_files import manifest_digest, served_files
from link.recorder import WRONG, policy_for

pytestmark = pytest.mark.slow

PROMPT, PARAMS = "Once upon a time", SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)
SMALL: dict[str, Any] = {"threads": 1, "max_model_len": 256, "cache_mib": 8}


@pytest.fixture(scope="module")
def whole() -> list[int]:
    with LLM("story", **SMALL) as llm:
        return list(llm.generate(PROMPT, PARAMS)[0].outputs[0].token_ids)


@pytest.fixture(scope="module")
def llm(nodes: Nodes) -> Iterator[LLM]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        engine = LLM("story", stages=3, ray=nodes.address, **SMALL)
    with engine as llm:
        yield llm


def placed(llm: LLM) -> RayLauncher:
    assert llm.stages is not None
    launcher = llm.stages.pipeline.workers.launcher
    assert isinstance(launcher, RayLauncher)
    return launcher


def all_in_use(llm: LLM) -> bool:
    assert llm.stages is not None
    plan = llm.stages.pipeline.plan
    return plan is not None and len(plan.stages) == 3


def answer(llm: LLM, disturb: Any = None) -> list[int]:
    found, done = list[int](), disturb is None
    for delta in llm.stream(PROMPT, PARAMS):
        found += delta.token_ids
        if len(found) >= 10 and not done:
            done = True
            disturb()
    assert done
    return found


def test_three_stages_on_three_nodes(llm: LLM, whole: list[int]) -> None:
    assert answer(llm) == whole
    assert len({key for _, key in placed(llm).addresses.values()}) == 3


def test_an_actor_is_killed(llm: LLM, whole: list[int]) -> None:
    """With its process group: the party is its child, and ends with it."""
    until(lambda: all_in_use(llm))
    launcher, before = placed(llm), placed(llm).locate("stage1")
    party = launcher.process_id("stage1")
    actor = int(Path(f"/proc/{party}/stat").read_text().rpartition(")")[2].split()[1])
    assert answer(llm, lambda: os.kill(actor, signal.SIGKILL)) == whole
    until(lambda: all_in_use(llm) and launcher.locate("stage1") != before)
    assert before[1] in launcher.revoked
    until(lambda: not lives(party))
    assert answer(llm) == whole


def test_a_node_is_removed(llm: LLM, nodes: Nodes, whole: list[int]) -> None:
    until(lambda: all_in_use(llm))
    launcher, before = placed(llm), placed(llm).addresses
    parties = [launcher.process_id(name) for name in before]
    assert answer(llm, lambda: nodes.do(do="remove")) == whole
    until(lambda: all_in_use(llm) and launcher.addresses != before, 120.0)
    now = [launcher.process_id(name) for name in before]
    until(lambda: not any(lives(pid) for pid in set(parties) - set(now)))
    assert set(parties) & set(now), "the others stayed where they were"
    assert answer(llm) == whole
    nodes.do(do="add")


def test_the_head_is_killed_and_comes_back(token: dict[str, str], whole: list[int]) -> None:
    """Answers go on while the nodes live; then they end with an error, or wait; another head takes over."""
    nodes = Nodes(2, token)
    try:
        with LLM("story", stages=2, ray=nodes.address, patience=5.0, **SMALL) as llm:
            launcher, before = placed(llm), placed(llm).addresses
            assert answer(llm, lambda: nodes.do(do="end head")) == whole
            assert answer(llm) == whole
            assert launcher.addresses == before
            until(lambda: not any(lives(launcher.process_id(name)) for name in before), 150.0)
            with pytest.raises(CutsetError, match="no worker is left"):
                answer(llm)
            nodes.do(do="new head")
            until(lambda: all(launcher.addresses[name] != before[name] for name in before), 120.0)
            assert answer(llm) == whole
    finally:
        nodes.close()


def test_a_stream_goes_on_without_a_head(token: dict[str, str]) -> None:
    """While its nodes live; no picture is lost, and none comes twice."""
    pytest.importorskip("torch")
    from cluster.run.pictures import expected, moving, same, small_model
    from cutset.stream import Stream

    nodes, pictures, results = Nodes(2, token), moving(60), list[Any]()
    how: dict[str, Any] = {"workers": 2, "ray": nodes.address, "scheduler": "even", "rate": 10.0}
    try:
        with Stream(small_model(), pictures, **how) as stream:
            for result in stream:
                results.append(result)
                if len(results) == 5:
                    nodes.do(do="end head")
        same(results, expected(pictures))
    finally:
        nodes.close()


def test_no_room(nodes: Nodes, token: dict[str, str]) -> None:
    with pytest.raises(CutsetError, match=r"has no room for the plan.*free"):
        LLM("story", stages=3, ray=nodes.address, place=["stage0=cpu:50"], **SMALL)


def test_a_node_that_is_not_there(nodes: Nodes, token: dict[str, str]) -> None:
    with pytest.raises(CutsetError, match="no node of the cluster is 'edge'"):
        LLM("story", stages=3, ray=nodes.address, place=["stage0=node:edge"], **SMALL)


def test_nobody_listens() -> None:
    with pytest.raises(CutsetError, match="no Ray cluster can be reached"):
        LLM("story", stages=2, ray="127.0.0.1:1", insecure_ray=True, **SMALL)


def test_one_command_with_a_local_ray_and_nothing_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cutset.cli", "generate", "story", "--prompt", PROMPT, "--max-tokens", "20"]
    alone = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    begun = time.time()
    placed = subprocess.run(
        [*command, "--stages", "3", "--ray", "local", "--json", str(tmp_path / "o.json")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert placed.returncode == 0, placed.stderr
    assert placed.stdout == alone.stdout
    assert json.loads((tmp_path / "o.json").read_text())
    until(lambda: not [pid for pid in _raylets() if _started(pid) > begun])
    assert not [path for path in Path("/tmp").glob("cutset-*/ray") if path.stat().st_mtime > begun]


def _raylets() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.endswith((b"raylet", b"gcs_server")) for word in words[:1]):
            found.append(int(path.parent.name))
    return found


def _started(pid: int) -> float:
    try:
        return Path(f"/proc/{pid}").stat().st_mtime
    except OSError:
        return 0.0


def test_a_cluster_without_tokens_is_refused_whatever_this_side_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that nobody asks for protects nothing; and what is accepted works."""
    for name, value in {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}.items():
        monkeypatch.setenv(name, value)
    open_to_all = Nodes(1, {"RAY_AUTH_MODE": "disabled"})
    try:
        with pytest.raises(CutsetError, match="takes callers without a token"):
            LLM("story", stages=1, ray=open_to_all.address, **SMALL)
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        with pytest.raises(CutsetError, match="--insecure-ray"):
            LLM("story", stages=1, ray=open_to_all.address, **SMALL)
        with LLM("story", stages=1, ray=open_to_all.address, insecure_ray=True, **SMALL) as llm:
            assert answer(llm)
    finally:
        open_to_all.close()


def test_stages_show_evidence_and_have_the_policy_by_which_they_ask_each_other(
    nodes: Nodes, token: dict[str, str], whole: list[int], tmp_path: Path
) -> None:
    how: dict[str, Any] = {"stages": 2, "ray": nodes.address, "stage_evidence": "simulator", **SMALL}
    with LLM("story", stage_policy=policy_for(tmp_path / "p.toml", "stage"), **how) as llm:
        assert answer(llm) == whole
        for name in placed(llm).addresses:
            words = Path(f"/proc/{placed(llm).process_id(name)}/cmdline").read_bytes().split(b"\0")
            carried = Path(words[words.index(b"--stage-policy") + 1].decode())
            assert carried.read_text() == (tmp_path / "p.toml").read_text()
    until(lambda: not carried.parent.parent.exists())
    with pytest.raises(LinkError, match=WRONG["another enclave"]):
        LLM("story", stage_policy=policy_for(tmp_path / "q.toml", "stage", measured=b"other"), **how)


def test_replicas_in_stages_ask_theirs_and_are_asked(
    nodes: Nodes, token: dict[str, str], whole: list[int], tmp_path: Path
) -> None:
    """Replicas are beside the front, their stages on nodes: each has evidence of its own, and there is a policy for
    each."""
    pytest.importorskip("starlette")
    import argparse
    import asyncio

    from cutset.cli.serve_replicas import open_served
    from cutset.config import load_settings

    manifest = manifest_digest(served_files(BUNDLED)).hex()
    args = argparse.Namespace(
        replicas="1",
        replica_keys=None,
        replica_policy=policy_for(tmp_path / "replica.toml", "replica, stages", manifest=manifest),
        replica_evidence="simulator",
        trace=None,
    )
    stages = {"stages": 2, "stage_policy": policy_for(tmp_path / "stage.toml", "stage"), "stage_evidence": "simulator"}
    said: list[str] = []
    settings = load_settings({"ray": nodes.address, **stages, **SMALL})
    llm = open_served(args, "story", settings, {}, None, said.append)
    try:
        assert list(asyncio.run(llm.generate(PROMPT, PARAMS)).token_ids) == whole
    finally:
        llm.close()
    assert sum("NOT CONFIDENTIAL: the evidence of" in line for line in said) == 3, "of the replica and of its stages"


ELSEWHERE = """
import ray._private.services as services
others, find = set(services.find_node_ids()), services.find_node_ids
services.find_node_ids = lambda: set(find()) - others  # as on a machine without a node
import json, ray, sys
from cutset.cluster.launch.party_needs import Needs
from cutset.cluster.launch.ray_cluster import RayCluster
cluster = RayCluster()
cluster.open({"where": sys.argv[1], "insecure": False})
try:
    alive = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    assert cluster.reserve({f"party{i}": Needs(1.0) for i in range(3)}, 60.0) == "", cluster.free()
    here = ray.get_runtime_context().get_node_id()
    placed = ray.util.placement_group_table(cluster._groups["party0"][0])["bundles_to_node_id"].values()
    print(json.dumps([alive, here in placed]))
finally:
    cluster.close()
"""


def test_a_machine_that_is_no_node_joins_without_processors(nodes: Nodes, token: dict[str, str]) -> None:
    """As a server in a pod of its own, which asks for the head by name: nothing is placed on it."""
    for _ in range(2):  # the node that joined for the first one has gone
        command = [sys.executable, "-c", ELSEWHERE, nodes.address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        alive, placed_here = json.loads(done.stdout.splitlines()[-1])
        assert sorted(alive) == [0, 0, 2, 2, 2], "a head without processors, three nodes, and this side"
        assert not placed_here
