"""A request that another engine of the same model goes on with: the rest is what the first would have made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cutset.config import load_settings
from cutset.engine.outputs import Delta
from cutset.engine.params import SamplingParams
from cutset.engine.resumption import Resumption
from cutset.errors import CutsetError
from cutset.llm import LLM

PROMPT = "Once upon a time there was a little girl named Lily. She"
SCHEMA = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "minItems": 4, "maxItems": 6}
KINDS: dict[str, SamplingParams] = {
    "greedy": SamplingParams(temperature=0, max_tokens=24, logprobs=2),
    "sampled": SamplingParams(temperature=0.9, top_p=0.95, seed=11, max_tokens=24, n=3),
    "penalties": SamplingParams(
        temperature=0.8, seed=5, max_tokens=24, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.7
    ),
    "stops": SamplingParams(temperature=0.7, seed=3, max_tokens=40, n=2, stop=["was ver", "the end", "."], logprobs=0),
    "least": SamplingParams(temperature=0.9, seed=4, max_tokens=40, min_tokens=30, stop=["a"]),
    "schema": SamplingParams(temperature=1.0, seed=9, max_tokens=40, structured_outputs={"json": SCHEMA}),
    "bad_words": SamplingParams(temperature=0.9, seed=2, max_tokens=24, bad_words=["the", " little girl"]),
    "scores": SamplingParams(temperature=0.9, seed=8, max_tokens=12, prompt_logprobs=1, n=2),
    "whole": SamplingParams(temperature=0.9, seed=1, max_tokens=None, ignore_eos=True),
}


@pytest.fixture(scope="module", params=["off", "ngram"])
def llms(request: pytest.FixtureRequest) -> Iterator[tuple[LLM, LLM]]:
    """Two engines: one begins, the other one goes on."""
    settings = {"threads": 1, "cache_mib": 4, "max_model_len": 96, "max_num_seqs": 8, "speculate": request.param}
    both = LLM("story", settings=load_settings(settings)), LLM("story", settings=load_settings(settings))
    yield both
    for llm in both:
        llm.close()


def run(llm: LLM, params: SamplingParams, resumption: Resumption | None = None, salt: str = "") -> list[Delta]:
    ids = llm.encode(PROMPT)
    with llm._loop.submit(ids, params, cache_salt=salt, resumption=resumption) as handle:
        return list(handle)


def seen(deltas: list[Delta]) -> dict[int, dict[str, Any]]:
    """What a client sees of each sample, whatever pieces it came in."""
    found: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        one = found.setdefault(delta.index, {"text": "", "ids": [], "logprobs": [], "end": None})
        one["text"] += delta.text
        one["ids"] += delta.token_ids
        one["logprobs"] += delta.logprobs or ()
        one["end"] = one["end"] or (delta.finish_reason and (delta.finish_reason, delta.stop_reason))
    return found


def cut(deltas: list[Delta], count: int, samples: int) -> Resumption:
    """What is known after so many deltas."""
    outputs = [[one for delta in deltas[:count] if delta.index == i for one in delta.token_ids] for i in range(samples)]
    ended = frozenset(delta.index for delta in deltas[:count] if delta.finish_reason is not None)
    cached = next(delta.cached_tokens for delta in deltas if delta.cached_tokens is not None)
    return Resumption(tuple(np.array(ids, dtype=np.int32) for ids in outputs), ended, cached)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rest_is_the_same(llms: tuple[LLM, LLM], kind: str) -> None:
    first, second = llms
    params = replace(KINDS[kind], seed=KINDS[kind].seed or 0)
    whole = run(first, params, salt=kind)
    assert whole[0].cached_tokens == 0
    for count in sorted({1, 2, len(whole) // 3, len(whole) // 2, len(whole) - 1}):
        rest = run(second, params, cut(whole, count, params.n), salt=kind)
        assert seen(whole[:count] + rest) == seen(whole)
        assert rest[-1].usage == whole[-1].usage
        assert all(delta.prompt_logprobs is None for delta in rest), "they came with the first token"


def test_blocks_that_are_there_are_used_and_siblings_begin(llms: tuple[LLM, LLM]) -> None:
    """The second engine has all of a prompt and of the first sample in its cache: the others begin all the same."""
    params = replace(KINDS["sampled"], ignore_eos=True, max_tokens=48)
    whole = run(llms[0], params, salt="a")
    assert seen(run(llms[1], params, salt="a")) == seen(whole)
    count = next(i for i in range(len(whole)) if sum(one.index == 0 for one in whole[:i]) == 40)
    before = llms[1].stats().prompt_tokens
    rest = run(llms[1], params, cut(whole, count, 3), salt="a")
    assert seen(whole[:count] + rest) == seen(whole)
    assert llms[1].stats().prompt_tokens - before < 3 * 16, "all but the last blocks were found"


def test_what_cant_be_the_same_request_is_refused(llms: tuple[LLM, LLM]) -> None:
    params = SamplingParams(temperature=0, max_tokens=8, seed=0)
    deltas = run(llms[0], params)
    good = cut(deltas, 3, 1)

    def refused(resumption: Resumption, params: SamplingParams = params) -> str:
        with pytest.raises(CutsetError) as error:
            run(llms[1], params, resumption)
        return str(error.value)

    assert "seed" in refused(good, SamplingParams(temperature=0, max_tokens=8))
    assert "2 samples" in refused(good, replace(params, n=2))
    assert "none left" in refused(replace(good, ended=frozenset({0})))
    assert "aren't those of tokens" in refused(replace(good, outputs=(np.array([1 << 20], dtype=np.int32),)))
    assert "aren't those of tokens" in refused(replace(good, outputs=(np.zeros((2, 2), dtype=np.int32),)))
    assert "no room" in refused(replace(good, outputs=(np.ones(8, dtype=np.int32),)))
    assert "cached" in refused(replace(good, cached_tokens=1000))
    stopped = SamplingParams(temperature=0, max_tokens=8, seed=0, stop_token_ids=[int(good.outputs[0][1])])
    assert "has ended" in refused(good, stopped)
    assert seen(run(llms[1], params)) == seen(deltas), "the engine goes on"
