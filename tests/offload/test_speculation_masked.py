"""Speculation over an accelerator: in masked modes only where a flag asks for a number of drafts that never changes."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from cutset import LLM, SamplingParams
from cutset.errors import ConfigError

PROMPT = "The red fox saw the big tree. The red fox saw the big tree. The red fox"
PARAMS = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True)


def run(**options: Any) -> tuple[list[int], Any, tuple[int, float]]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="mode plain")
        with LLM("story", threads=1, cache_mib=64, **options) as llm:
            tokens = llm.generate(PROMPT, PARAMS)[0].token_ids
            stats = llm.stats()
            wrong = stats.drafted_tokens - stats.accepted_tokens
            rows = stats.prompt_tokens + stats.generated_tokens + wrong
            return tokens, stats, llm.offload.burned(wrong, rows) if llm.offload is not None else (0, 0.0)


@pytest.mark.parametrize("mode", ["masked", "masked+verified", ""])
def test_masked_modes_refuse_what_was_not_asked_for_by_hand(
    mode: str, inproc: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"in mode masked.*numbers of rows would tell.*--speculate-tokens"):
        LLM("story", threads=1, offload=inproc, mode=mode, speculate="ngram")
    monkeypatch.setenv("CUTSET_SPECULATE", "ngram")
    monkeypatch.setenv("CUTSET_SPECULATE_TOKENS", "3")
    with pytest.raises(ConfigError, match=r"speculate=ngram \(CUTSET_SPECULATE\) in mode masked"):
        LLM("story", threads=1, offload=inproc, mode=mode)


def test_answers_are_the_same_in_every_mode(inproc: str) -> None:
    expected, _, _ = run(mode="local")
    for mode in ("plain", "verified"):
        tokens, _, burned = run(offload=inproc, mode=mode, speculate="ngram")
        assert (tokens, burned) == (expected, (0, 0.0))
    tokens, stats, (burned, seconds) = run(offload=inproc, mode="masked", speculate="ngram", speculate_tokens=3)
    assert tokens == expected
    assert stats.drafted_tokens >= 3 * (stats.steps - 4)  # every step has as many
    wrong = stats.drafted_tokens - stats.accepted_tokens
    assert burned >= wrong > 0
    assert seconds >= 0
