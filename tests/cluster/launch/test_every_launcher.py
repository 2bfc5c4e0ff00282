"""Stages of every launcher: the same tokens when one is killed in the middle of an answer, then it is there again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.launch.fake_ray import FakeCluster, Fakes, until
from cutset.cluster.launch import ray_launcher
from cutset.engine.params import SamplingParams
from cutset.llm import LLM
from engine.stage_processes import running

PROMPT, PARAMS = "Once upon a time", SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)
SMALL: dict[str, Any] = {"threads": 1, "max_model_len": 256, "cache_mib": 8}
Placed = tuple[LLM, Callable[[], object], Callable[[], object]]  # an engine, what kills one, and what starts it again


def nothing() -> None:
    """The engine's side starts it."""


@contextlib.contextmanager
def local(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Placed]:
    with LLM("story", stages=2, **SMALL) as llm:
        assert llm.stages is not None
        assert llm.stages.local is not None
        yield llm, llm.stages.local.process("worker2").kill, nothing


@contextlib.contextmanager
def given(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Placed]:
    with running(folder, "a", "b", tcp=True) as stages, LLM("story", **stages.settings("a", "b"), **SMALL) as llm:
        yield llm, lambda: stages.kill("b"), lambda: stages.start("b")


@contextlib.contextmanager
def ray(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Placed]:
    fakes = Fakes(FakeCluster({"a": 1, "b": 1, "c": 1}))
    patch.setattr("cutset.cluster.launch.ray_security.installed", lambda: "2.60.0")
    patch.setattr(ray_launcher, "open_driver", fakes.open)
    with LLM("story", stages=2, ray="auto", insecure_ray=True, **SMALL) as llm:
        yield llm, lambda: next(one for one in fakes.cluster.made if one.name == "stage1").kill(), nothing


@pytest.mark.parametrize("launcher", [local, *(pytest.param(one, marks=pytest.mark.slow) for one in (given, ray))])
def test_the_same_tokens_when_a_stage_is_killed(launcher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LLM("story", **SMALL) as llm:
        whole = list(llm.generate(PROMPT, PARAMS)[0].outputs[0].token_ids)
    with launcher(tmp_path, monkeypatch) as (llm, kill, start_again):
        assert llm.stages is not None
        pipeline, found, killed = llm.stages.pipeline, list[int](), False
        for delta in llm.stream(PROMPT, PARAMS):
            found += delta.token_ids
            if len(found) >= 10 and not killed:
                killed = True
                kill()
        assert found == whole
        assert pipeline.failovers
        start_again()
        until(lambda: pipeline.plan is not None and len(pipeline.plan.stages) == 2)
        assert list(llm.generate(PROMPT, PARAMS)[0].outputs[0].token_ids) == whole
