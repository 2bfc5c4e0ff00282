"""Nodes of a real Ray cluster are taken away, twenty times each: tokens, pictures and results are the same, none is
lost and none comes twice."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("ray")

from cluster.launch.fake_ray import until
from cluster.launch.ray_processes import TOKEN, Nodes
from cutset.cluster.launch.ray_launcher import RayLauncher
from cutset.engine.params import SamplingParams
from cutset.errors import LinkError
from cutset.link.launch import PIPE, Child, environment
from cutset.llm import LLM

pytestmark = pytest.mark.slow

TIMES = 20
PROMPT, PARAMS = "Once upon a time", SamplingParams(temperature=0.9, seed=11, max_tokens=200, ignore_eos=True)
SMALL: dict[str, Any] = {"threads": 1, "max_model_len": 256, "cache_mib": 8}


@pytest.fixture(scope="module")
def whole() -> tuple[list[int], str]:
    with LLM("story", **SMALL) as llm:
        one = llm.generate(PROMPT, PARAMS)[0].outputs[0]
        return list(one.token_ids), one.text


def stands(launcher: RayLauncher, name: str) -> bool:
    try:
        launcher.locate(name)
    except LinkError:
        return False
    return True


class Outages:
    """How long parties were nowhere, from when Ray had said that they were gone until they were in use again."""

    def __init__(self, launcher: RayLauncher) -> None:
        self.seconds: list[float] = []
        self._launcher, self._over = launcher, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        since: dict[str, float] = {}
        while not self._over.wait(0.02):
            for name in self._launcher.names:
                if not stands(self._launcher, name):
                    since.setdefault(name, time.monotonic())
                elif name in since:
                    self.seconds.append(time.monotonic() - since.pop(name))

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        found = sorted(self.seconds)
        print(f"{len(found)} parties were away for {found[len(found) // 2]:.1f} s (median), {found[-1]:.1f} s at most")


def heads() -> set[str]:
    """Processes that are heads of Ray clusters."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().split(b"\0")[0].endswith(b"gcs_server"):
                found.add(path.parent.name)
    return found


def exchange(nodes: Nodes) -> None:
    """A node goes, and another one joins."""
    nodes.do(do="remove")
    nodes.do(do="add")


def test_tokens_of_stages(nodes: Nodes, token: dict[str, str], whole: tuple[list[int], str]) -> None:
    """With a spare: what it takes over goes on at once, whatever Ray knows by then."""
    with LLM("story", stages=2, spares=1, ray=nodes.address, patience=60.0, **SMALL) as llm:
        assert llm.stages is not None
        pipeline = llm.stages.pipeline
        launcher = pipeline.workers.launcher
        assert isinstance(launcher, RayLauncher)

        def complete() -> bool:
            plan = pipeline.plan
            return plan is not None and len(plan.stages) == 2 and all(stands(launcher, name) for name in launcher.names)

        outages, moved = Outages(launcher), 0
        for _ in range(TIMES):
            until(complete, 120.0)
            before, found, changing = launcher.addresses, list[int](), None
            for delta in llm.stream(PROMPT, PARAMS):
                found += delta.token_ids
                if len(found) >= 10 and changing is None:
                    changing = threading.Thread(target=exchange, args=(nodes,))
                    changing.start()
            assert changing is not None
            changing.join()
            assert found == whole[0]
            until(complete, 120.0)
            moved += launcher.addresses != before
        outages.close()
        assert moved >= TIMES // 4, "nodes with parties on them went"


def test_pictures_of_a_stream(nodes: Nodes, token: dict[str, str]) -> None:
    pytest.importorskip("torch")
    from cluster.run.pictures import expected, moving, same, small_model
    from cutset.stream import Stream

    each, results = 12, list[Any]()
    pictures = moving(each * (TIMES + 1))
    how: dict[str, Any] = {"workers": 2, "ray": nodes.address, "scheduler": "even", "patience": 90.0}
    with Stream(small_model(), pictures, **how) as stream:
        for result in stream:
            results.append(result)
            if len(results) % each == each // 2 and len(results) < each * TIMES:
                exchange(nodes)
    same(results, expected(pictures))


def served(flags: list[str], env: dict[str, str]) -> tuple[Child, str, list[str]]:
    """`cutset serve` as people start it, where it is, and what it says."""
    command = ["cutset.cli", "serve", "story", "--port", "0", "--max-model-len", "256", "--cache-mib", "8", *flags]
    child = Child("a server", command, env=environment() | env, stderr=PIPE)
    url = child.until(r"^serving .* at (http\S+)/v1")[1]
    said: list[str] = []

    def read() -> None:
        for line in child.process.stderr or ():
            said.append(line)

    threading.Thread(target=read, daemon=True).start()
    return child, url, said


def streamed(url: str, disturb: Callable[[], object] | None = None) -> str:
    """The text of an answer, from its stream."""
    body = {"prompt": PROMPT, "seed": 11, "temperature": 0.9, "max_tokens": 200, "ignore_eos": True, "stream": True}
    text, pieces = "", 0
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=300) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            text += json.loads(line[6:])["choices"][0]["text"]
            pieces += 1
            if pieces == 10 and disturb is not None:
                disturb()
    return text


@pytest.fixture
def replicas(nodes: Nodes, token: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    child, url, said = served(["--ray", nodes.address, "--replicas", "2", "--threads", "1"], token)
    yield url, said
    child.end(30.0)


def test_results_of_replicas(replicas: tuple[str, list[str]], nodes: Nodes, whole: tuple[list[int], str]) -> None:
    url, said = replicas

    def complete() -> bool:
        answer = httpx.get(f"{url}/metrics").text
        return sum(line.startswith("cutset_replica_up{") for line in answer.splitlines()) == 2

    for _ in range(TIMES):
        until(complete, 120.0)
        going: list[threading.Thread] = []

        def disturb(going: list[threading.Thread] = going) -> None:
            going.append(threading.Thread(target=exchange, args=(nodes,)))
            going[0].start()

        assert streamed(url, disturb) == whole[1]
        going[0].join()
    until(complete, 120.0)
    assert streamed(url) == whole[1]
    assert any("was lost" in line for line in said)
    assert TOKEN not in "".join(said)


def test_one_command_places_replicas_of_stages_on_a_local_cluster(whole: tuple[list[int], str]) -> None:
    """As in the README; the cluster is one for all replicas, and ends with the server."""
    before = heads()
    child, url, _ = served(["--ray", "local", "--replicas", "2", "--stages", "2", "--threads", "1"], {})
    try:
        assert streamed(url) == whole[1]
        metrics = httpx.get(f"{url}/metrics").text
        assert sum(line.startswith("cutset_replica_up{") for line in metrics.splitlines()) == 2
        assert len(heads() - before) == 1
    finally:
        child.end(30.0)
    until(lambda: not heads() - before, 30.0)
