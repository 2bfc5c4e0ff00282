"""The oblivious sampler draws the tokens of the other one, and takes the same steps whatever the logits are."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cutset.engine import SamplingParams
from cutset.engine.bits import bits_of
from cutset.engine.constraint import RowMasks
from cutset.engine.oblivious_sampler import draw_obliviously, kept_weights
from cutset.engine.sampler import choose, kept_tokens

from .test_sampler import VOCAB, anything, logits_of, sampler


@given(anything, st.integers(0, 2**32), st.booleans(), st.lists(st.integers(0, 9), max_size=12))
def test_the_same_tokens_are_drawn(params: SamplingParams, seed: int, rounded: bool, tokens: list[int]) -> None:
    logits, both = logits_of(seed, rounded=rounded), []
    for oblivious in (False, True):
        one = sampler(params, prompt=tokens[:5], ends={1, 2})
        for token in tokens[5:]:
            one.observe(token)
        both.append(choose(logits[None], [one], [len(tokens)], oblivious=oblivious))
    if not rounded or params.top_p == 1:  # sums of equal weights may round to either side of top_p
        assert both[0] == both[1]


@given(
    st.integers(0, 2**32),
    st.booleans(),
    st.sampled_from([0, 1, 7, VOCAB]),
    st.sampled_from([1.0, 0.93, 0.5, 1e-9]),
    st.sampled_from([0.0, 0.05, 1.0]),
    st.sampled_from([np.float32, np.float64]),
)
def test_the_same_tokens_are_kept(seed: int, rounded: bool, top_k: int, top_p: float, min_p: float, kind: Any) -> None:
    logits = logits_of(seed, rounded=rounded).astype(kind)
    limits: dict[str, Any] = {"temperature": 0.8, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    ids, weights = kept_tokens(logits, **limits)
    found = kept_weights(logits, **limits)
    if rounded and top_p < 1:
        assert abs(np.count_nonzero(found) - len(weights)) <= 1
        return
    assert np.flatnonzero(found).tolist() == (list(range(VOCAB)) if ids is None else ids.tolist())
    assert np.array_equal(found[found > 0], weights)


@pytest.mark.parametrize("params", [SamplingParams(temperature=0), SamplingParams(temperature=1, seed=3)])
def test_masks_and_drafts(params: SamplingParams) -> None:
    logits = np.stack([logits_of(seed) for seed in range(4)])
    masks = [RowMasks.of([bits_of(range(10 + row, 40), VOCAB) for row in range(4)])]
    first = [one.token_id for one in choose(logits, [sampler(params)], [3], [[0, 0, 0]], masks) if one is not None]
    for drafts in ([first[0], 11, 12], [0, 0, 0]):
        found = [choose(logits, [sampler(params)], [3], [drafts], masks, oblivious=way) for way in (False, True)]
        assert found[0] == found[1]
        assert found[0][0] is not None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_give_nothing(bad: float) -> None:
    logits = logits_of(1)
    logits[7] = bad
    assert choose(logits[None], [sampler(SamplingParams(seed=1))], [0], oblivious=True) == [None]
    masked = np.full((1, VOCAB), -np.inf, np.float32)
    assert choose(masked, [sampler(SamplingParams(seed=1))], [0], oblivious=True) == [None]


def lines(logits: NDArray[np.float32], number: float, **limits: Any) -> list[tuple[str, int]]:
    """Which lines of the sampler run, in their order."""
    found: list[tuple[str, int]] = []

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.endswith("oblivious_sampler.py"):
            return None
        found.append((event, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        draw_obliviously(logits, number, **limits)
    finally:
        sys.settrace(before)
    return found


@pytest.mark.parametrize("top_k", [0, 5])
@pytest.mark.parametrize("top_p", [1.0, 0.7])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_same_lines_run_whatever_the_logits_are(top_k: int, top_p: float, temperature: float) -> None:
    limits: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": 0.01}
    steps = [
        lines(logits_of(seed, rounded=rounded) * scale, number, **limits)
        for seed, rounded, scale, number in ((1, False, 1, 0.1), (2, True, 1, 0.9), (3, False, 30, 0.5))
    ]
    assert steps[0]
    assert steps[0] == steps[1] == steps[2]
