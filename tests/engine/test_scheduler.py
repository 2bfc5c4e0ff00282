"""Who moves in a step: budgets, order, fairness, preemption. Seen from the rows that reach the executor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutset.engine import Delta, SamplingParams

from .fake import FakeExecutor
from .helpers import GREEDY, assert_empty, drain, make_engine, outputs, prompts
from .twin import slow_generate


def test_decodes_come_first_then_begun_prompts_then_waiting_ones() -> None:
    executor = FakeExecutor()
    engine = make_engine(executor, max_batch_tokens=10, max_num_seqs=4, prefix_caching=False)
    engine.add("a", [1, 2, 3], GREEDY)
    engine.step()
    engine.add("b", list(range(14)), GREEDY)
    engine.add("c", list(range(6)), GREEDY)
    for _ in range(3):
        engine.step()
    # a decodes throughout; b takes what is left; c starts with what b leaves.
    assert executor.log == [[3], [1, 9], [1, 5, 4], [1, 1, 2]]
    drain(engine)


def test_no_step_is_larger_than_its_budget() -> None:
    executor = FakeExecutor()
    engine = make_engine(executor, max_batch_tokens=7, max_num_seqs=5, blocks=80)
    for i, prompt in enumerate(prompts(12, seed=1)):
        engine.add(f"r{i}", prompt, replace(GREEDY, max_tokens=40))
    drain(engine)
    assert max(sum(rows) for rows in executor.log) == 7
    assert max(len(rows) for rows in executor.log) == 5


def test_first_come_first_served() -> None:
    """A long prompt isn't overtaken by short ones that came later, though there would be room for them."""
    engine = make_engine(blocks=12, max_num_seqs=8, prefix_caching=False)
    engine.add("a", list(range(24)), GREEDY)
    engine.step()
    engine.add("long", list(range(30)), GREEDY)
    engine.add("short", [1], GREEDY)
    order: list[str] = []
    for delta in drain(engine):
        if delta.request_id not in order:
            order.append(delta.request_id)
    assert order == ["a", "long", "short"]


def test_the_youngest_is_preempted_and_comes_back_first() -> None:
    engine = make_engine(blocks=6, max_num_seqs=4, prefix_caching=False)
    params = replace(GREEDY, max_tokens=14)
    for one in "abc":
        engine.add(one, [ord(one), 1, 2], params)
    finished: list[str] = []
    seen: list[set[str]] = []
    while engine.has_work:
        deltas = engine.step()
        seen.append({delta.request_id for delta in deltas})
        finished += [delta.request_id for delta in deltas if delta.finished]
    assert engine.stats().preemptions > 0
    assert finished == ["a", "b", "c"]
    assert all("a" in one for one in seen[:14])  # the oldest never loses a step


def test_preempted_keeps_its_tokens_and_sends_none_twice() -> None:
    engine = make_engine(blocks=6, max_num_seqs=4)
    params = replace(GREEDY, max_tokens=14)
    for one in "abc":
        engine.add(one, [ord(one), 1, 2], params)
    for one, output in outputs(drain(engine)).items():
        assert output.token_ids == slow_generate([ord(one), 1, 2], params)
        assert output.usage is not None
        assert output.usage.completion_tokens == 14
    assert engine.stats().preemptions > 0


def test_one_sequence_may_have_all_blocks() -> None:
    engine = make_engine(blocks=4)
    engine.add("a", [1] * 15, replace(GREEDY, max_tokens=None))
    output = outputs(drain(engine))["a"]
    assert (len(output.token_ids), output.finish_reason) == (1, "length")
    engine.add("b", [1, 2], replace(GREEDY, max_tokens=None))
    output = outputs(drain(engine))["b"]
    assert (len(output.token_ids), output.finish_reason) == (14, "length")
    assert output.token_ids == slow_generate([1, 2], replace(GREEDY, max_tokens=14))


def test_work_after_a_preemption_is_little_with_prefix_reuse() -> None:
    executor = FakeExecutor()
    engine = make_engine(executor, blocks=12, max_num_seqs=3)
    for i, prompt in enumerate(prompts(3, seed=2, low=12, high=13)):
        engine.add(f"r{i}", prompt, replace(GREEDY, max_tokens=16))
    drain(engine)
    rows = sum(map(sum, executor.log))
    assert engine.stats().preemptions > 0
    assert rows < 3 * (12 + 16) + engine.stats().preemptions * 28


def test_public_prefill_without_room_says_so() -> None:
    engine = make_engine(blocks=4)
    engine.add("a", [1] * 12, GREEDY)
    engine.add("b", [2] * 12, GREEDY)
    engine.prefill("a")
    with pytest.raises(Exception, match="no room to start request 'b'"):
        engine.prefill("b")
    engine.abort("a")
    assert [delta.request_id for delta in engine.prefill("b")] == ["b"]
    drain(engine)


def test_public_prefill_before_its_turn_and_of_all_samples() -> None:
    params = replace(GREEDY, n=3, temperature=1.0, seed=3)
    executor = FakeExecutor()
    engine = make_engine(executor, max_batch_tokens=8)
    engine.add("a", [1] * 12, GREEDY)
    engine.add("b", [2] * 12, params)
    deltas = engine.prefill("b")
    assert [delta.index for delta in deltas] == [0, 1, 2]
    assert executor.log == [[8], [4], [4, 4]]
    deltas += drain(engine)
    results = outputs(deltas)
    assert [sample.token_ids for sample in results["b"].outputs] == [
        slow_generate([2] * 12, params, index=index) for index in range(3)
    ]
    assert results["a"].token_ids == slow_generate([1] * 12, GREEDY)


def test_decode_alone_computes_no_prompt() -> None:
    engine = make_engine()
    engine.add("a", [1, 2, 3], GREEDY)
    assert engine.decode() == []
    engine.prefill("a")
    engine.add("b", [1, 2, 3, 4], GREEDY)
    assert [delta.request_id for delta in engine.decode()] == ["a"]
    drain(engine)


request = st.tuples(
    st.integers(0, 3),  # which prefix
    st.integers(1, 20),  # length
    st.integers(1, 3),  # n
    st.integers(1, 12),  # max_tokens
)


@given(
    st.lists(request, min_size=1, max_size=8),
    st.integers(6, 14),
    st.integers(4, 12),
    st.booleans(),
    st.lists(st.integers(0, 30), max_size=4),
    st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_any_load(
    requests: list[tuple[int, int, int, int]], blocks: int, budget: int, caching: bool, aborts: list[int], seed: int
) -> None:
    """Random requests and cancellations: right tokens, no leak, an end."""
    generator = np.random.default_rng(seed)
    prefixes = prompts(4, seed=seed, low=20, high=21)
    engine = make_engine(blocks=blocks, max_batch_tokens=budget, max_num_seqs=4, prefix_caching=caching)
    given_ids: dict[str, tuple[list[int], SamplingParams]] = {}
    deltas: list[Delta] = []
    cancelled: set[str] = set()
    step = 0
    while engine.has_work or len(given_ids) < len(requests):
        if len(given_ids) < len(requests) and generator.random() < 0.5:
            which, length, n, max_tokens = requests[len(given_ids)]
            one = f"r{len(given_ids)}"
            prompt = [*prefixes[which][:length], *generator.integers(0, 300, size=2).tolist()]
            given_ids[one] = prompt, SamplingParams(n=n, max_tokens=max_tokens, temperature=0.9, seed=seed)
            engine.add(one, *given_ids[one])
        if step in aborts and engine.has_work:
            one = f"r{aborts.index(step) % len(requests)}"
            before = engine.stats().blocks_free
            ended = engine.abort(one)
            assert engine.stats().blocks_free >= before
            deltas += ended
            cancelled |= {one for _ in ended}
        deltas += engine.step()
        step += 1
        assert step < 3000
    assert_empty(engine)
    for one, output in outputs(deltas).items():
        prompt, params = given_ids[one]
        assert output.finished
        for sample in output.outputs:
            whole = slow_generate(prompt, params, index=sample.index)[: blocks * 4 - len(prompt)]
            if one in cancelled:
                assert sample.token_ids == whole[: len(sample.token_ids)]
            else:
                assert (sample.token_ids, sample.finish_reason) == (whole, "length")
