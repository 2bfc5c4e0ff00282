"""However a request is run, it gets the tokens of the slow loop: alone, batched, in chunks, cached, preempted.

Every check here also runs on executors that are wrong, and has to fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from cutset.engine import SamplingParams

from .fake import ByteTokenizer, FakeExecutor, ForgetfulExecutor, SwappedExecutor, ZerosExecutor, slow_logits
from .helpers import GREEDY, added, assert_empty, drain, make_engine, outputs, prompts, run
from .twin import slow_generate

RANDOM = SamplingParams(temperature=0.8, top_k=40, top_p=0.95, seed=11, max_tokens=12)
PENALISED = replace(RANDOM, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.4, min_p=0.01)
KINDS = [GREEDY, RANDOM, PENALISED]


def mixture(count: int, **options: int) -> dict[str, tuple[list[int], SamplingParams]]:
    return {f"r{i}": (prompt, KINDS[i % 3]) for i, prompt in enumerate(prompts(count, **options))}


def expected(requests: dict[str, tuple[list[int], SamplingParams]]) -> dict[str, list[list[int]]]:
    return {one: [slow_generate(prompt, params)] for one, (prompt, params) in requests.items()}


def check_alone(executor: FakeExecutor) -> None:
    requests = mixture(6)
    for one, request in requests.items():
        assert run(make_engine(executor), {one: request}) == expected({one: request})


def check_batched(executor: FakeExecutor) -> None:
    requests = mixture(12, seed=1)
    assert run(make_engine(executor), requests) == expected(requests)
    assert max(len(rows) for rows in executor.log) == 8


def check_chunked(executor: FakeExecutor) -> None:
    requests = mixture(5, seed=2, low=30, high=60)
    engine = make_engine(executor, max_batch_tokens=8, max_num_seqs=4, blocks=128)
    assert run(engine, requests) == expected(requests)
    assert max(sum(rows) for rows in executor.log) == 8


def check_cached(executor: FakeExecutor) -> None:
    common = prompts(1, seed=3, low=30, high=31)[0]
    requests = {f"r{i}": (common[: 30 - i] + tail, KINDS[i % 3]) for i, tail in enumerate(prompts(6, seed=4, high=8))}
    engine = make_engine(executor, blocks=256)
    for one, request in requests.items():  # one after another: each finds blocks of those before
        assert run(engine, {one: request}) == expected({one: request})
    assert engine.stats().prefix_hits > 100
    again = {f"{one}-again": request for one, request in requests.items()}
    assert run(engine, again) == expected(again)


def check_preempted(executor: FakeExecutor) -> None:
    requests = mixture(6, seed=5, low=8, high=12)
    engine = make_engine(executor, blocks=10, max_num_seqs=6, prefix_caching=False)
    assert run(engine, requests) == expected(requests)
    assert engine.stats().preemptions > 0


def check_steps(executor: FakeExecutor) -> None:
    """Prefill and decode as separate steps."""
    requests = mixture(3, seed=6, low=10, high=30)
    engine = make_engine(executor, max_batch_tokens=8)
    deltas = []
    for one, (prompt, params) in requests.items():
        engine.add(one, prompt, params)
    for one in reversed(requests):
        first = engine.prefill(one)
        assert [(delta.request_id, len(delta.token_ids)) for delta in first] == [(one, 1)]
        deltas += first
    assert engine.prefill("r0") == []
    while engine.has_work:
        deltas += (moved := engine.decode())
        assert {delta.request_id for delta in moved} <= set(requests)
        assert max(executor.log[-1]) == 1
    assert {one: [output.token_ids] for one, output in outputs(deltas).items()} == expected(requests)
    assert_empty(engine)


CHECKS = [check_alone, check_batched, check_chunked, check_cached, check_preempted, check_steps]


@pytest.mark.parametrize("check", CHECKS)
def test_equals_slow_loop(check: Callable[[FakeExecutor], None]) -> None:
    check(FakeExecutor())


@pytest.mark.parametrize("check", CHECKS)
def test_zeros_fail(check: Callable[[FakeExecutor], None]) -> None:
    with pytest.raises(AssertionError, match=r"==|assert"):
        check(ZerosExecutor())


@pytest.mark.parametrize("check", [check_batched, check_chunked, check_preempted, check_steps])
def test_swapped_sequences_fail(check: Callable[[FakeExecutor], None]) -> None:
    with pytest.raises(AssertionError, match=r"==|assert"):
        check(SwappedExecutor())


@pytest.mark.parametrize("check", [check_chunked, check_cached, check_steps])
def test_forgotten_cache_fails(check: Callable[[FakeExecutor], None]) -> None:
    with pytest.raises(AssertionError, match=r"==|assert"):
        check(ForgetfulExecutor())


@pytest.mark.parametrize("caching", [True, False])
def test_everything_at_once(caching: bool) -> None:
    """Few blocks, small steps, shared prefixes, samples, late arrivals."""
    common = prompts(1, seed=7, low=20, high=21)[0]
    requests = {
        f"r{i}": (common[: 4 * (i % 6)] + tail, replace(KINDS[i % 3], n=1 + i % 3, max_tokens=6 + i))
        for i, tail in enumerate(prompts(14, seed=8, high=10))
    }
    executor = FakeExecutor()
    engine = make_engine(executor, blocks=16, max_batch_tokens=10, max_num_seqs=6, prefix_caching=caching)
    waiting = list(requests.items())
    deltas = []
    while waiting or engine.has_work:
        if waiting and len(executor.log) % 3 == 0:
            one, (prompt, params) = waiting.pop(0)
            engine.add(one, prompt, params)
        deltas += engine.step()
    assert_empty(engine)
    for one, output in outputs(deltas).items():
        prompt, params = requests[one]
        assert [sample.index for sample in output.outputs] == list(range(params.n))
        for sample in output.outputs:
            assert sample.token_ids == slow_generate(prompt, params, index=sample.index)
    stats = engine.stats()
    assert stats.preemptions > 0
    assert (stats.prefix_hits > 0) == caching


def test_preempted_in_its_prefill_and_found_again() -> None:
    """A preempted sequence may find its own blocks again; that isn't reported as cached prompt."""
    requests = mixture(4, seed=9, low=16, high=20)
    engine = make_engine(blocks=14, max_batch_tokens=8, max_num_seqs=4)
    for one, (prompt, params) in requests.items():
        engine.add(one, prompt, params)
    results = outputs(drain(engine))
    assert {one: [output.token_ids] for one, output in results.items()} == expected(requests)
    assert engine.stats().preemptions > 0
    assert all(output.usage is not None and output.usage.cached_tokens == 0 for output in results.values())


class TestPrefix:
    def test_usage_counts_whole_blocks_and_leaves_one_token(self) -> None:
        prompt = prompts(1, seed=10, low=16, high=17)[0]  # four blocks of four
        engine = make_engine()
        for request, cached in (("a", 0), ("b", 12), ("c", 12)):
            engine.add(request, prompt, GREEDY)
            usage = outputs(drain(engine))[request].usage
            assert usage is not None
            assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (16, 12, cached)
        stats = engine.stats()
        assert (stats.prefix_queries, stats.prefix_hits) == (48, 24)

    def test_cached_tokens_are_not_computed(self) -> None:
        prompt = prompts(1, seed=10, low=17, high=18)[0]
        executor = FakeExecutor()
        engine = make_engine(executor)
        run(engine, {"a": (prompt, GREEDY)})
        executor.log.clear()
        run(engine, {"b": (prompt, GREEDY)})
        assert executor.log[0] == [1]

    def test_next_turn_finds_the_answer(self) -> None:
        prompt = prompts(1, seed=11, low=16, high=17)[0]
        engine = make_engine()
        [answer] = run(engine, {"a": (prompt, GREEDY)})["a"]
        turn = [*prompt, *answer, 5, 6]
        engine.add("b", turn, GREEDY)
        output = outputs(drain(engine))["b"]
        assert output.usage is not None
        # 16 + 12 tokens, the last of which was sampled but never computed.
        assert output.usage.cached_tokens == 24
        assert output.token_ids == slow_generate(turn, GREEDY)

    def test_off(self) -> None:
        prompt = prompts(1, seed=10, low=16, high=17)[0]
        engine = make_engine(prefix_caching=False)
        assert run(engine, {"a": (prompt, GREEDY)})["a"] == run(engine, {"b": (prompt, GREEDY)})["b"]
        assert engine.stats().prefix_hits == 0

    def test_salts_don_t_share(self) -> None:
        prompt = prompts(1, seed=10, low=16, high=17)[0]
        engine = make_engine()
        cached = {}
        for request, salt in (("a", None), ("b", "x"), ("c", "y"), ("d", ""), ("e", "x"), ("f", None), ("g", "shared")):
            engine.add(request, prompt, GREEDY, cache_salt=salt)
            output = outputs(drain(engine))[request]
            assert output.token_ids == slow_generate(prompt, GREEDY)
            assert output.usage is not None
            cached[request] = output.usage.cached_tokens
        assert cached == {"a": 0, "b": 0, "c": 0, "d": 0, "e": 12, "f": 12, "g": 0}

    def test_not_found_before_it_is_computed(self) -> None:
        """Two equal prompts in one step: the second can't read what the first is about to write."""
        prompt = prompts(1, seed=12, low=20, high=21)[0]
        executor = FakeExecutor()
        result = run(make_engine(executor), {"a": (prompt, GREEDY), "b": (prompt, GREEDY)})
        assert executor.log[0] == [20, 20]
        assert result["a"] == result["b"] == [slow_generate(prompt, GREEDY)]

    def test_colliding_digests_don_t_mix_prompts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("cutset.engine.sequence.child_digest", lambda parent, tokens: b"same")
        requests = mixture(6, seed=13, low=12, high=20)
        engine = make_engine()
        for one, request in requests.items():
            assert run(engine, {one: request}) == expected({one: request})

    def test_evicted_blocks_are_not_found(self) -> None:
        first, second = prompts(2, seed=14, low=30, high=31)
        engine = make_engine(blocks=12)
        for one, prompt in (("a", first), ("b", second), ("c", first), ("d", second)):
            assert run(engine, {one: (prompt, GREEDY)})[one] == [slow_generate(prompt, GREEDY)]
        assert engine.stats().prefix_hits < 28


class TestSamples:
    PARAMS = replace(RANDOM, n=4)

    @pytest.mark.parametrize("caching", [True, False])
    def test_each_has_its_own_randomness(self, caching: bool) -> None:
        prompt = prompts(1, seed=15, low=18, high=19)[0]
        executor = FakeExecutor()
        engine = make_engine(executor, prefix_caching=caching)
        engine.add("a", prompt, self.PARAMS)
        output = outputs(drain(engine))["a"]
        tokens = [sample.token_ids for sample in output.outputs]
        assert tokens == [slow_generate(prompt, self.PARAMS, index=index) for index in range(4)]
        assert len({tuple(one) for one in tokens}) == 4
        assert output.usage is not None
        assert output.usage.completion_tokens == 48
        assert output.usage.cached_tokens == 0
        # Shared: 18 rows once, then the 2 that fill no block, and one of the first sample's own.
        assert executor.log[:2] == ([[18], [1, 2, 2, 2]] if caching else [[18, 18, 18, 10], [1, 1, 1, 8]])

    def test_more_samples_than_sequences_at_a_time(self) -> None:
        prompt = prompts(1, seed=15, low=18, high=19)[0]
        engine = make_engine(max_num_seqs=2)
        tokens = run(engine, {"a": (prompt, self.PARAMS), "b": (prompt, GREEDY)})
        assert tokens["a"] == [slow_generate(prompt, self.PARAMS, index=index) for index in range(4)]
        assert tokens["b"] == [slow_generate(prompt, GREEDY)]

    def test_only_the_last_delta_has_usage(self) -> None:
        engine = make_engine()
        engine.add("a", [1, 2, 3], self.PARAMS)
        deltas = drain(engine)
        assert [delta.finished for delta in deltas] == [False] * (len(deltas) - 1) + [True]
        assert [delta.usage is not None for delta in deltas] == [delta.finished for delta in deltas]


class TestSeeds:
    def test_same_seed_same_tokens_whoever_shares(self) -> None:
        [prompt] = prompts(1, seed=16, low=10, high=11)
        alone = run(make_engine(), {"a": (prompt, RANDOM)})["a"]
        for company in range(1, 4):
            others = mixture(company * 3, seed=company, high=30)
            engine = make_engine(max_batch_tokens=8 * company, blocks=20 + company)
            assert run(engine, {**others, "a": (prompt, RANDOM)})["a"] == alone

    def test_other_seed_other_tokens(self) -> None:
        results = {tuple(run(make_engine(), {"a": ([1, 2], replace(RANDOM, seed=seed))})["a"][0]) for seed in range(20)}
        assert len(results) == 20

    def test_no_seed_is_a_new_one_each_time(self) -> None:
        engine = make_engine()
        params = replace(RANDOM, seed=None)
        results = [run(engine, {"a": ([1, 2], params)})["a"][0] for _ in range(4)]
        assert len({tuple(one) for one in results}) == 4

    def test_negative_seed(self) -> None:
        params = replace(RANDOM, seed=-1)
        assert run(make_engine(), {"a": ([1, 2], params)})["a"] == [slow_generate([1, 2], params)]


def test_text_is_that_of_the_tokens() -> None:
    tokenizer = ByteTokenizer()
    requests = mixture(9, seed=17)
    engine = make_engine(tokenizer=tokenizer)
    for one, (prompt, params) in requests.items():
        engine.add(one, prompt, replace(params, max_tokens=60))
    for one, output in outputs(drain(engine)).items():
        prompt = list(requests[one][0])
        before, whole = tokenizer.decode(prompt), tokenizer.decode([*prompt, *output.token_ids])
        assert output.text == added(before, whole)


def test_the_slow_loop_is_not_the_engine() -> None:
    """The reference itself: logits differ with each token of the history and with its place."""
    rows = [slow_logits(tokens).tobytes() for tokens in ([1], [2], [1, 2], [2, 1], [1, 1], [1, 1, 1], [1, 2, 1])]
    assert len(set(rows)) == len(rows)
