"""The sampler against its slow twin, and the promises that no twin shows."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cutset.engine import SamplingParams
from cutset.engine.sampler import Choice, TokenSampler, choose, kept_tokens, uniform

from .twin import slow_adjust, slow_kept, slow_sample

VOCAB = 60


def logits_of(seed: int, *, rounded: bool = False, vocab: int = VOCAB) -> NDArray[np.float32]:
    """(vocab,) with many ties if rounded."""
    values = np.random.default_rng(seed).normal(scale=2, size=vocab)
    return (np.round(values) if rounded else values).astype(np.float32)


def sampler(
    params: SamplingParams, *, prompt: list[int] | None = None, index: int = 0, ends: set[int] | None = None
) -> TokenSampler:
    ids = np.array(prompt or [], dtype=np.int32)
    seed = 0 if params.seed is None else params.seed
    return TokenSampler(params, seed=seed, index=index, vocab_size=VOCAB, prompt_ids=ids, end_ids=ends or set())


anything = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0, 1e-6, 0.3, 1.0, 1.7, 50.0]),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 0.1, 1e-9]),
    top_k=st.sampled_from([0, -1, 1, 2, 7, VOCAB, 1000]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    seed=st.integers(-(2**63), 2**64 - 1),
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.3, 4.0]),
    presence_penalty=st.sampled_from([0.0, -2.0, 0.7]),
    frequency_penalty=st.sampled_from([0.0, -1.0, 0.4]),
    min_tokens=st.sampled_from([0, 3]),
)


@given(anything, st.integers(0, 2**32), st.booleans(), st.lists(st.integers(0, 9), max_size=12), st.integers(0, 3))
def test_equals_twin(params: SamplingParams, seed: int, rounded: bool, tokens: list[int], index: int) -> None:
    logits, ends = logits_of(seed, rounded=rounded), {1, 2}
    prompt, output = tokens[:5], tokens[5:]
    fast = sampler(params, prompt=prompt, index=index, ends=ends)
    for token in output:
        fast.observe(token)
    [choice] = choose(logits[None], [fast], [len(tokens)])
    assert choice is not None
    expected = slow_sample(logits, params, prompt, output, index=index, ends=ends)
    if rounded and params.top_p < 1:  # sums of equal weights may round to either side of top_p
        adjusted = slow_adjust(logits, params, prompt, output, ends)
        assert params.temperature == 0 or choice.token_id in slow_kept(adjusted, replace(params, top_p=1.0))
    else:
        assert choice.token_id == expected


@given(st.integers(0, 2**32), st.floats(0.001, 0.999), st.floats(0.05, 5))
@example(seed=1, top_p=0.5, temperature=1e-3)
def test_top_p_is_the_smallest_set(seed: int, top_p: float, temperature: float) -> None:
    logits = logits_of(seed)
    ids, weights = kept_tokens(logits, temperature=temperature, top_k=0, top_p=top_p, min_p=0)
    assert ids is not None
    probabilities = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    probabilities /= probabilities.sum()
    assert probabilities[ids].sum() >= top_p - 1e-12
    assert probabilities[ids].sum() - probabilities[ids].min() < top_p + 1e-12
    assert set(ids) == set(np.argsort(-probabilities, kind="stable")[: len(ids)])
    assert np.allclose(weights / weights.sum(), probabilities[ids] / probabilities[ids].sum())


def test_top_p_of_a_large_vocabulary() -> None:
    """The shortcut that doesn't sort what can't be in the set."""
    for seed, top_p in ((1, 0.9), (2, 0.999999), (3, 1e-6)):
        logits = logits_of(seed, vocab=50_000)
        params = SamplingParams(top_p=top_p)
        ids, _ = kept_tokens(logits, temperature=1, top_k=0, top_p=top_p, min_p=0)
        order = np.argsort(-logits, kind="stable")
        probabilities = np.exp(logits.astype(np.float64))[order]
        count = int(np.searchsorted(np.cumsum(probabilities) / probabilities.sum(), params.top_p)) + 1
        assert ids is not None
        assert sorted(order[:count].tolist()) == ids.tolist()


def test_ties_go_to_the_lowest_ids() -> None:
    logits = np.array([1, 3, 3, 3, 0], dtype=np.float32)
    ids, _ = kept_tokens(logits, temperature=1, top_k=2, top_p=1, min_p=0)
    assert ids is not None
    assert ids.tolist() == [1, 2]
    ids, _ = kept_tokens(logits, temperature=1, top_k=0, top_p=0.5, min_p=0)
    assert ids is not None
    assert ids.tolist() == [1, 2]
    greedy = sampler(SamplingParams(temperature=0))
    assert choose(logits[None], [greedy], [0]) == [Choice(1, None)]


def test_frequencies_are_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.125])).astype(np.float32)
    params = SamplingParams(seed=3)
    drawn = [sampler(params).draw(logits, position) for position in range(4000)]
    shares = np.bincount(np.array(drawn), minlength=4) / len(drawn)
    assert np.abs(shares - [0.5, 0.25, 0.125, 0.125]).max() < 0.03


def test_uniform_is_spread_and_keyed() -> None:
    numbers = [uniform(key, position) for key in (0, 1, 1 << 64, 2**128 - 1) for position in range(300)]
    assert len(set(numbers)) == len(numbers)
    assert 0 <= min(numbers) < 0.01
    assert 0.99 < max(numbers) < 1
    assert uniform(7, 5) == uniform(7, 5)
    assert uniform(7, 5) == 0.4543056052750971  # a seed must give the same text in later versions


def test_temperature_near_zero_is_greedy_and_warns_of_nothing() -> None:
    for temperature in (1e-300, 1e-30, 1e-6):
        logits = logits_of(1)
        assert sampler(SamplingParams(temperature=temperature)).draw(logits, 0) == int(logits.argmax())


def test_masked_tokens_are_never_drawn() -> None:
    logits = np.full(VOCAB, -np.inf, dtype=np.float32)
    logits[[7, 9]] = 0
    for params in (SamplingParams(seed=1), SamplingParams(seed=1, top_k=40), SamplingParams(seed=1, top_p=0.9999)):
        assert {sampler(params).draw(logits, position) for position in range(60)} == {7, 9}


@pytest.mark.parametrize(
    ("params", "prompt", "output", "expected"),
    [
        ({}, [3], [3, 3, 3], 3),
        ({"presence_penalty": 0.4}, [], [3, 3, 3], 3),
        ({"presence_penalty": 0.6}, [], [3], 4),
        ({"presence_penalty": 0.6}, [3, 3], [], 3),  # the output only
        ({"frequency_penalty": 0.2}, [], [3, 3], 3),
        ({"frequency_penalty": 0.2}, [], [3, 3, 3], 4),
        ({"frequency_penalty": 0.2}, [3, 3, 3], [], 3),
        ({"repetition_penalty": 1.3}, [], [3, 3, 3], 3),  # once, however often it is there
        ({"repetition_penalty": 1.4}, [], [3], 4),
        ({"repetition_penalty": 1.4}, [3], [], 4),  # prompt and output
        ({"repetition_penalty": 0.5}, [4], [], 4),
        ({"presence_penalty": -0.6}, [], [4], 4),
    ],
)
def test_penalties(params: dict[str, float], prompt: list[int], output: list[int], expected: int) -> None:
    logits = np.full(VOCAB, -1, dtype=np.float32)
    logits[3], logits[4] = 2, 1.5
    fast = sampler(SamplingParams(temperature=0, **params), prompt=prompt)
    for token in output:
        fast.observe(token)
    assert fast.draw(logits, len(prompt) + len(output)) == expected


def test_repetition_penalty_of_negative_logits() -> None:
    logits = np.array([-1, -1.1, -3], dtype=np.float32)
    assert sampler(SamplingParams(temperature=0, repetition_penalty=1.2), prompt=[0]).draw(logits, 1) == 1


def test_min_tokens_masks_the_end() -> None:
    logits = np.zeros(VOCAB, dtype=np.float32)
    logits[1], logits[2] = 9, 8
    greedy = sampler(SamplingParams(temperature=0, min_tokens=2), prompt=[0, 0, 0], ends={1})
    tokens = [choice.token_id for known in (3, 4, 5) for choice in choose(logits[None], [greedy], [known]) if choice]
    assert tokens == [2, 2, 1]


def test_rows_don_t_know_each_other() -> None:
    rows = [
        replace(one, seed=i)
        for i, one in enumerate([SamplingParams(temperature=0), SamplingParams(), SamplingParams(top_p=0.8)] * 3)
    ]
    logits = np.stack([logits_of(i) for i in range(len(rows))])
    together = choose(logits, [sampler(one) for one in rows], list(range(len(rows))))
    alone = [choose(logits[i : i + 1], [sampler(one)], [i])[0] for i, one in enumerate(rows)]
    assert together == alone


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "params",
    [SamplingParams(temperature=0), SamplingParams(seed=1, top_k=3), SamplingParams(seed=1, presence_penalty=1)],
)
def test_no_numbers_no_token(bad: float, params: SamplingParams) -> None:
    logits = np.stack([logits_of(1), logits_of(2), logits_of(3)])
    logits[1, 40] = bad
    choices = choose(logits, [sampler(params) for _ in range(3)], [0, 0, 0])
    assert [choice is None for choice in choices] == [False, True, False]


def test_all_masked_no_token() -> None:
    params = SamplingParams(temperature=0, min_tokens=1)
    assert choose(np.zeros((1, VOCAB), dtype=np.float32), [sampler(params, ends=set(range(VOCAB)))], [0]) == [None]
    assert choose(np.full((1, VOCAB), -np.inf, dtype=np.float32), [sampler(SamplingParams(seed=0))], [0]) == [None]


@pytest.mark.parametrize("wanted", [0, 1, 5, 20])
def test_logprobs_are_of_the_raw_logits(wanted: int) -> None:
    logits = logits_of(4, rounded=True)
    params = SamplingParams(seed=2, logprobs=wanted, temperature=1.7, presence_penalty=1.5, top_k=30)
    fast = sampler(params)
    fast.observe(int(logits.argmax()))
    [choice] = choose(logits[None], [fast], [3])
    assert choice is not None
    assert choice.logprob is not None
    total = math.log(sum(math.exp(x) for x in logits.tolist()))
    order = sorted(range(VOCAB), key=lambda token: (-logits[token], token))
    found = choice.logprob
    assert found.token_id == choice.token_id
    assert found.logprob == pytest.approx(float(logits[choice.token_id]) - total)
    assert found.rank == order.index(choice.token_id) + 1
    assert [token for token, _ in found.top] == order[:wanted]
    assert [logprob for _, logprob in found.top] == pytest.approx(
        [float(logits[one]) - total for one in order[:wanted]]
    )


def test_logprobs_of_a_small_vocabulary() -> None:
    logits = np.array([[1, 2, 3]], dtype=np.float32)
    [choice] = choose(logits, [sampler(SamplingParams(temperature=0, logprobs=20))], [0])
    assert choice is not None
    assert choice.logprob is not None
    assert [token for token, _ in choice.logprob.top] == [2, 1, 0]
