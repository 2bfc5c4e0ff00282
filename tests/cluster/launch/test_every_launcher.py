"""Stages, streams and offload are the same whoever launched the parties, and when one is killed in the middle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.launch.fake_ray import until
from cluster.launch.launchers import SMALL, Given, Launched, Local, Placed, fake_ray
from cluster.launch.ray_processes import Nodes
from cutset.engine.params import SamplingParams
from cutset.llm import LLM

PROMPT, PARAMS = "Once upon a time", SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)
PROMPTS = [PROMPT, "The dog", "She said that the little house by the sea was hers " * 3, "A"]
EACH = [
    PARAMS,
    SamplingParams(max_tokens=200, temperature=1.0, seed=7, ignore_eos=True),
    SamplingParams(max_tokens=40, n=3, temperature=0.8, seed=3, logprobs=2, presence_penalty=0.5),
    SamplingParams(max_tokens=30, repetition_penalty=1.3, top_k=20, top_p=0.9, min_tokens=20, seed=1, stop=["."]),
]
SLOW = pytest.mark.slow
RAY = [pytest.param("fake ray", marks=SLOW), pytest.param("ray", marks=SLOW)]
OTHERS = [pytest.param("given", marks=SLOW), *RAY]


@pytest.fixture
def launched(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launched:
    if request.param == "local":
        return Local(tmp_path)
    if request.param == "given":
        return Given(tmp_path)
    if request.param == "fake ray":
        return fake_ray(tmp_path, monkeypatch)
    nodes: Nodes = request.getfixturevalue("nodes")
    request.getfixturevalue("token")
    return Placed(tmp_path, ray=nodes.address)


@pytest.fixture(scope="module")
def one() -> Iterator[LLM]:
    """The same model in this process."""
    with LLM("story", **SMALL) as llm:
        yield llm


@pytest.fixture(scope="module")
def whole(one: LLM) -> list[int]:
    return list(one.generate(PROMPT, PARAMS)[0].outputs[0].token_ids)


def answer(llm: LLM, disturb: Any) -> list[int]:
    found, done = list[int](), False
    for delta in llm.stream(PROMPT, PARAMS):
        found += delta.token_ids
        if len(found) >= 10 and not done:
            done = True
            disturb()
    return found


def _said(answers: Any) -> list[Any]:
    return [[(one.token_ids, one.text, one.logprobs) for one in each.outputs] for each in answers]


def stages_in_use(llm: LLM) -> list[str]:
    assert llm.stages is not None
    plan = llm.stages.pipeline.plan
    return [] if plan is None else [stage.worker for stage in plan.stages]


@pytest.mark.parametrize("launched", ["local", *OTHERS], indirect=True)
def test_the_same_tokens_when_a_stage_is_killed(launched: Launched, whole: list[int]) -> None:
    with launched.stages(2) as (llm, kill, start_again):
        assert answer(llm, lambda: kill(1)) == whole
        assert llm.stages is not None
        assert llm.stages.pipeline.failovers
        start_again(1)
        until(lambda: len(stages_in_use(llm)) == 2)
        assert list(llm.generate(PROMPT, PARAMS)[0].outputs[0].token_ids) == whole


@pytest.mark.slow
@pytest.mark.parametrize("launched", ["local", *OTHERS], indirect=True)
def test_stages_write_what_one_process_writes(launched: Launched, one: LLM) -> None:
    """Several prompts at once, each asked in its own way."""
    wanted = one.generate(PROMPTS, EACH)
    with launched.stages(3) as (llm, _, _):
        assert len(stages_in_use(llm)) == 3
        got = llm.generate(PROMPTS, EACH)
        assert _said(got) == _said(wanted)


@pytest.mark.parametrize("launched", [pytest.param("local", marks=SLOW), *OTHERS], indirect=True)
def test_a_spare_takes_over_at_once(launched: Launched, whole: list[int]) -> None:
    with launched.stages(2, spares=1) as (llm, kill, start_again):
        before = stages_in_use(llm)
        assert len(before) == 2
        seen: list[list[str]] = []

        def lose() -> None:
            kill(0)
            until(lambda: len(stages_in_use(llm)) == 2 and before[0] not in stages_in_use(llm), 30.0)
            seen.append(stages_in_use(llm))

        assert answer(llm, lose) == whole
        assert seen[0][1] == before[1]
        assert seen[0][0] not in before
        start_again(0)
        until(lambda: stages_in_use(llm) == before)
        assert list(llm.generate(PROMPT, PARAMS)[0].outputs[0].token_ids) == whole


@pytest.mark.slow
@pytest.mark.parametrize("launched", ["local", *OTHERS], indirect=True)
def test_the_same_pictures_when_a_worker_is_killed(launched: Launched) -> None:
    pytest.importorskip("torch")
    from cluster.run.pictures import expected, moving, same, small_model

    pictures, results = moving(12), list[Any]()
    with launched.stream(small_model(), pictures) as (stream, kill, start_again):
        for result in stream:
            results.append(result)
            if len(results) == 2:
                kill(0)
                start_again(0)
    same(results, expected(pictures))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["verified", "masked+verified"])
@pytest.mark.parametrize("launched", ["local", *OTHERS], indirect=True)
def test_the_same_tokens_by_an_accelerator_that_was_killed(launched: Launched, mode: str) -> None:
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    with LLM("story", mode="local", threads=1) as llm:
        wanted = list(llm.generate(PROMPT, params)[0].outputs[0].token_ids)

    def answered(how: dict[str, Any]) -> list[int]:
        with LLM("story", mode=mode, threads=1, **how) as llm:
            return list(llm.generate(PROMPT, params)[0].outputs[0].token_ids)

    with launched.accelerator() as (reached, kill, start_again):
        before = reached()
        where = before["offload"], Path(before["accelerator_key"]).read_text() if "accelerator_key" in before else ""
        assert answered(before) == wanted
        kill(0)
        start_again(0)
        if isinstance(launched, Placed):

            def moved() -> bool:
                now = reached()
                return (now["offload"], Path(now["accelerator_key"]).read_text()) != where

            until(moved)
        assert answered(reached()) == wanted
