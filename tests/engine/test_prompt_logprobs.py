"""How likely a prompt's own tokens are: what the slow formula says, however the prompt is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.engine import Engine, RequestOutput, SamplingParams, TokenLogprob
from cutset.engine import engine as engine_module
from cutset.engine.drafting import NgramDrafter
from cutset.errors import EngineError
from cutset.kernels import native
from cutset.models.run.executor import Batch, KVCache
from cutset.models.run.native import NativeDecoder
from models.test_native import DENSE, tensors_of

from .fake import VOCAB, FakeExecutor, ForgetfulExecutor, SwappedExecutor, slow_logits
from .helpers import drain, make_engine, outputs, prompts
from .stages import SlowPipeline, local, stage_decoders, staged_engine
from .test_prefix_store import engine_with
from .test_states import StateExecutor

SCORED = SamplingParams(temperature=0, max_tokens=3, prompt_logprobs=3)


def slow_scores(prompt: Sequence[int], likeliest: int) -> list[TokenLogprob | None]:
    found: list[TokenLogprob | None] = [None]
    for known in range(1, len(prompt)):
        values = [float(one) for one in slow_logits(prompt[:known])]
        total = math.log(math.fsum(math.exp(one) for one in values))
        ranked = sorted(range(VOCAB), key=lambda token: (-values[token], token))
        top = tuple((token, values[token] - total) for token in ranked[:likeliest])
        own = prompt[known]
        found.append(TokenLogprob(own, values[own] - total, 1 + ranked.index(own), top))
    return found


def check(output: RequestOutput, prompt: Sequence[int], likeliest: int = 3) -> None:
    wanted, found = slow_scores(prompt, likeliest), output.prompt_logprobs
    assert found is not None
    assert len(found) == len(prompt)
    assert found[0] is None
    for ours, theirs in zip(found[1:], wanted[1:], strict=True):
        assert ours is not None
        assert theirs is not None
        assert (ours.token_id, ours.rank) == (theirs.token_id, theirs.rank)
        assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-9)
        assert [token for token, _ in ours.top] == [token for token, _ in theirs.top]
        assert [value for _, value in ours.top] == pytest.approx([value for _, value in theirs.top], abs=1e-9)


def scored(engine: Engine, asked: dict[str, tuple[list[int], SamplingParams]], **add: Any) -> dict[str, RequestOutput]:
    for name, (prompt, params) in asked.items():
        engine.add(name, prompt, params, **add)
    return outputs(drain(engine))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_batch_tokens": 8},
        {"max_batch_tokens": 9, "blocks": 15, "max_num_seqs": 6},  # some are preempted
        {"prefix_caching": False},
        {"prefix_caching": False, "max_batch_tokens": 8, "blocks": 15, "max_num_seqs": 6},
    ],
)
def test_scores_are_what_the_formula_says(options: dict[str, Any]) -> None:
    common = prompts(1, seed=4, low=14, high=15)[0]
    asked = {}
    for number, tail in enumerate(prompts(8, seed=9, low=1, high=16)):
        params = replace(SCORED, prompt_logprobs=number % 4, n=1 + number % 3, max_tokens=12)
        prompt = common[: 3 * (number % 5)] + tail
        asked[f"scored {number}"] = (prompt, params)
        asked[f"plain {number}"] = (prompt, replace(params, prompt_logprobs=None))
    engine = make_engine(**options)
    found = scored(engine, asked)
    for number in range(8):
        prompt, params = asked[f"scored {number}"]
        check(found[f"scored {number}"], prompt, params.prompt_logprobs or 0)
        plain = found[f"plain {number}"]
        assert plain.prompt_logprobs is None
        assert [one.token_ids for one in plain.outputs] == [one.token_ids for one in found[f"scored {number}"].outputs]
    assert (engine.stats().preemptions > 0) == ("blocks" in options)


@pytest.mark.parametrize("executor", [SwappedExecutor, ForgetfulExecutor])
def test_a_wrong_executor_fails_it(executor: type[FakeExecutor]) -> None:
    asked = {str(number): (prompt, SCORED) for number, prompt in enumerate(prompts(4, seed=2, low=20, high=30))}
    found = scored(make_engine(executor(), max_batch_tokens=8), asked)
    wrong = 0
    for name, (prompt, _) in asked.items():
        try:
            check(found[name], prompt)
        except AssertionError:
            wrong += 1
    assert wrong


def test_what_is_cached_is_computed_again_and_reused_by_others() -> None:
    engine, [prompt] = make_engine(), prompts(1, seed=1, low=30, high=31)
    for round_ in range(2):
        found = scored(engine, {"a": (prompt, SCORED)})["a"]
        check(found, prompt)
        assert found.usage is not None
        assert found.usage.cached_tokens == 0
        assert engine.stats().prompt_tokens == 30 * (round_ + 1)
    plain = scored(engine, {"a": (prompt, replace(SCORED, prompt_logprobs=None))})["a"]
    assert plain.usage is not None
    assert plain.usage.cached_tokens == 28
    assert plain.token_ids == found.token_ids


@pytest.mark.parametrize("most", [64 << 20, 4 * VOCAB * 2])  # with few scored rows others would soon be ahead
def test_samples_share_the_prompt_and_none_comes_before_its_scores(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "SCORED_BYTES", most)
    for caching in (True, False):
        engine, [prompt] = make_engine(max_batch_tokens=8, prefix_caching=caching), prompts(1, low=30, high=31)
        engine.add("a", prompt, replace(SCORED, n=4, temperature=1, seed=3))
        deltas = drain(engine)
        assert [delta.prompt_logprobs is not None for delta in deltas] == [True] + [False] * (len(deltas) - 1)
        assert deltas[0].index == 0
        check(outputs(deltas)["a"], prompt)
        rows = 30 + 3 * 2 if caching else 4 * 30  # the last two tokens fill no block
        assert engine.stats().prompt_tokens == rows


def test_short_prompts_and_cut_ones() -> None:
    prompt = prompts(1, low=30, high=31)[0]
    asked = {
        "one": (prompt[:1], SCORED),
        "two": (prompt[:2], SCORED),
        "cut": (prompt, replace(SCORED, truncate_prompt_tokens=7)),
    }
    found = scored(make_engine(), asked)
    assert found["one"].prompt_logprobs == [None]
    check(found["two"], prompt[:2])
    check(found["cut"], prompt[-7:])


def test_scores_are_to_the_bit_what_was_reported_when_the_tokens_were_drawn() -> None:
    engine, [prompt] = make_engine(max_batch_tokens=8), prompts(1, low=20, high=21)
    params = SamplingParams(seed=5, max_tokens=20, logprobs=4, ignore_eos=True)
    drawn = scored(engine, {"a": (prompt, params)})["a"].outputs[0]
    whole = scored(engine, {"a": (prompt + drawn.token_ids, replace(SCORED, prompt_logprobs=4))})["a"]
    assert whole.prompt_logprobs is not None
    assert drawn.logprobs is not None
    assert whole.prompt_logprobs[20:] == [one._replace(text_offset=0) for one in drawn.logprobs]


def test_logits_of_a_step_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(FakeExecutor):
        most = 0

        def forward(self, batch: Batch, cache: KVCache) -> Any:
            self.most = max(self.most, len(batch.logit_rows))
            return super().forward(batch, cache)

    monkeypatch.setattr(engine_module, "SCORED_BYTES", 4 * VOCAB * 5)
    executor, [prompt] = Counting(), prompts(1, low=38, high=39)
    engine = make_engine(executor)
    asked = {str(number): (prompt[number:], SCORED) for number in range(3)}
    asked["plain"] = (prompt, replace(SCORED, prompt_logprobs=None, skip_reading_prefix_cache=True))
    found = scored(engine, asked)
    for name in "012":
        check(found[name], asked[name][0])
    assert 5 <= executor.most <= 5 + len(asked)
    assert 38 in executor.log[0]  # who asks for no scores waits for nobody


def test_a_prompt_whose_logits_are_no_numbers_ends_alone() -> None:
    class Broken(FakeExecutor):
        def forward(self, batch: Batch, cache: KVCache) -> Any:
            logits = super().forward(batch, cache)
            logits[batch.token_ids[batch.logit_rows] == 299] = np.nan
            return logits

    engine = make_engine(Broken(), max_batch_tokens=8)
    good = [1, 2, 3, 4, 5]
    engine.add("bad", [5, 6, 299, 7, 8], replace(SCORED, n=3))
    engine.add("good", good, SCORED)
    deltas = drain(engine)
    errors = {delta.request_id: delta.error for delta in deltas if delta.error is not None}
    assert set(errors) == {"bad"}
    assert isinstance(errors["bad"], EngineError)
    assert "its prompt are not numbers" in str(errors["bad"])
    check(outputs([delta for delta in deltas if delta.request_id == "good"])["good"], good)


def test_reading_the_cache_can_be_turned_off() -> None:
    engine, [prompt] = make_engine(), prompts(1, low=30, high=31)
    wanted = scored(engine, {"a": (prompt, replace(SCORED, prompt_logprobs=None))})["a"]
    for skip, rows in ((True, 30), (False, 2), (None, 2)):
        before = engine.stats().prompt_tokens
        found = scored(engine, {"a": (prompt, replace(SCORED, prompt_logprobs=None, skip_reading_prefix_cache=skip))})
        assert engine.stats().prompt_tokens - before == rows
        assert found["a"].token_ids == wanted.token_ids


def test_blocks_on_disk_are_computed_again(tmp_path: Path) -> None:
    [prompt] = prompts(1, low=30, high=31)
    for scores, hits in ((None, 0), (3, 0), (None, 28)):
        engine, store = engine_with(tmp_path)
        found = scored(engine, {"a": (prompt, replace(SCORED, prompt_logprobs=scores))})["a"]
        store.close()
        assert engine.stats().stored_hits == hits
        if scores is not None:
            check(found, prompt)


def test_decoders_with_states() -> None:
    [prompt] = prompts(1, seed=3, low=30, high=31)
    found = []
    for options in ({}, {"max_batch_tokens": 8}, {"prefix_caching": False}):
        engine = make_engine(StateExecutor(), **options)
        for _ in range(2):
            found.append(scored(engine, {"a": (prompt, SCORED)})["a"])
    assert all(one.prompt_logprobs == found[0].prompt_logprobs for one in found)
    assert found[0].prompt_logprobs is not None
    assert len(set(found[0].prompt_logprobs)) == 30


FOUR = replace(DENSE, layers=4)
ASKED = {
    f"{number}": (prompt, replace(SCORED, prompt_logprobs=number % 3, n=1 + number % 2, max_tokens=6))
    for number, prompt in enumerate(prompts(6, seed=6, low=1, high=50, vocab=61))
}
ASKED |= {f"plain {name}": (prompt, replace(params, prompt_logprobs=None)) for name, (prompt, params) in ASKED.items()}


def bits(engine: Engine) -> dict[str, Any]:
    found = scored(engine, ASKED)
    return {name: (one.prompt_logprobs, [sample.token_ids for sample in one.outputs]) for name, one in found.items()}


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """Those of a decoder in one place, each prompt alone."""
    found = {}
    for name, request in ASKED.items():
        engine = staged_engine(NativeDecoder(FOUR, tensors_of(FOUR), native.Pool(1)), max_batch_tokens=256)
        [one] = scored(engine, {name: request}).values()
        found[name] = (one.prompt_logprobs, [sample.token_ids for sample in one.outputs])
    assert len({str(one) for one in found.values()}) > 6
    return found


def test_a_batch_gives_the_bits_of_each_alone(whole: dict[str, Any]) -> None:
    for options in ({}, {"max_batch_tokens": 9}):
        assert bits(staged_engine(NativeDecoder(FOUR, tensors_of(FOUR), native.Pool(1)), **options)) == whole


def test_stages_give_the_same_bits(whole: dict[str, Any]) -> None:
    pipeline = local(FOUR, tensors_of(FOUR), 2, 3)
    assert bits(staged_engine(pipeline, max_batch_tokens=16)) == whole
    pipeline.close()
    away = SlowPipeline(stage_decoders(FOUR, tensors_of(FOUR), 3), 4)
    assert bits(staged_engine(away, max_batch_tokens=16)) == whole


@pytest.mark.parametrize("early", [True, False])
def test_lost_stages_lose_no_scores(whole: dict[str, Any], early: bool) -> None:
    pipeline = SlowPipeline(stage_decoders(FOUR, tensors_of(FOUR), 2), 3, early=early, lose={4, 9, 17}, away=2)
    engine = staged_engine(pipeline, max_batch_tokens=16)
    assert bits(engine) == whole
    assert engine.stats().losses == 3


@pytest.mark.parametrize("always", [True, False])
def test_beside_drafts(always: bool) -> None:
    """Which stand in the same steps if their number never changes."""
    asked = {}
    for number, prompt in enumerate(prompts(5, seed=12, low=10, high=30)):
        asked[f"scored {number}"] = (prompt, replace(SCORED, max_tokens=20))
        asked[f"plain {number}"] = ([*prompt[:4], *prompt[:4]], SamplingParams(temperature=0, max_tokens=20))
    engine = make_engine(drafter=NgramDrafter(), draft_tokens=3, draft_always=always, max_batch_tokens=32)
    found = scored(engine, asked)
    assert (engine.stats().drafted_tokens > 0) or not always
    plain = scored(make_engine(), asked)
    for name, (prompt, _) in asked.items():
        assert found[name].token_ids == plain[name].token_ids
        if name.startswith("scored"):
            check(found[name], prompt)
