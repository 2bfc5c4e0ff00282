"""Several who use one real Ray cluster: each reaches its own parties alone, and nothing of one is left for another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from cluster.launch.ray_processes import TOKEN, Nodes
from cutset.cluster.launch.ray_launcher import RayLauncher
from cutset.engine.params import SamplingParams
from cutset.errors import CutsetError, LinkError
from cutset.link import Timeouts, connect
from cutset.link.keys import new_keys
from cutset.llm import LLM

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"threads": 1, "max_model_len": 256, "cache_mib": 8}
PARAMS = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
FIRST, SECOND = "Once upon a zebra", "The little submarine"


def launcher_of(llm: LLM) -> RayLauncher:
    assert llm.stages is not None
    launcher = llm.stages.pipeline.workers.launcher
    assert isinstance(launcher, RayLauncher)
    return launcher


def answer(llm: LLM, prompt: str) -> str:
    return llm.generate(prompt, PARAMS)[0].outputs[0].text


def written(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """All that Ray wrote of its nodes: logs, and what it keeps of actors."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes()


def test_two_users_reach_their_own_parties_alone(nodes: Nodes, token: dict[str, str], tmp_path: Path) -> None:
    with LLM("story", **SMALL) as llm:
        wanted = {prompt: answer(llm, prompt) for prompt in (FIRST, SECOND)}
    with (
        LLM("story", stages=2, ray=nodes.address, **SMALL) as one,
        LLM("story", stages=2, ray=nodes.address, **SMALL) as two,
    ):
        assert answer(one, FIRST) == wanted[FIRST]
        assert answer(two, SECOND) == wanted[SECOND]
        mine, theirs = launcher_of(one), launcher_of(two)
        assert not {key for _, key in mine.addresses.values()} & {key for _, key in theirs.addresses.values()}
        for keys in (theirs.keys, new_keys()):  # another user of the cluster, and a stranger
            for address, public in mine.addresses.values():
                assert public is not None
                with pytest.raises(LinkError):
                    connect(address, keys=keys.expecting(public), timeouts=Timeouts(connect=2.0)).close()
        assert answer(one, FIRST) == wanted[FIRST], "who knocks disturbs nobody"
        secrets = [FIRST.encode(), SECOND.encode(), wanted[FIRST][:30].encode(), TOKEN.encode()]
        secrets += [bytes(each.keys.secret.hex(), "ascii") for each in (mine, theirs)]
        files = 0
        for path, content in written(nodes.logs):
            files += 1
            for secret in secrets:
                assert secret not in content, path
        assert files > 5
        for launcher in (mine, theirs):  # nobody on the node can read a party's keys or Ray's token from it
            for name in launcher.names:
                pid = launcher.process_id(name)
                environ = Path(f"/proc/{pid}/environ").read_bytes()
                assert TOKEN.encode() not in environ
                assert launcher.keys.secret.hex().encode() not in Path(f"/proc/{pid}/cmdline").read_bytes() + environ
    assert not list(Path(os.environ.get("TMPDIR", "/tmp")).glob("cutset-ray-*")), "files of keys are gone"


def test_a_wrong_token_is_refused_in_one_line(
    nodes: Nodes, token: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "00" * 32)
    with pytest.raises(CutsetError) as caught:
        LLM("story", stages=2, ray=nodes.address, **SMALL)
    assert "refused this side's token" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert "00" * 32 not in str(caught.value)
