"""The cache of an offload is the client's: in 8 bits, and on disk where no mask would be undone by it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset import LLM, SamplingParams
from cutset.errors import ConfigError

PARAMS = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True, logprobs=2)
IDS = np.random.default_rng(0).integers(5, 200, 200).astype(np.int32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def here(folder: Path, **options: Any) -> int:
    """Cached tokens of the same prompt."""
    with LLM("story", threads=1, prefix_cache=folder, **options) as llm:
        usage = llm.generate(IDS, PARAMS)[0].usage
        assert usage is not None
        return usage.cached_tokens


@pytest.mark.parametrize("mode", ["masked", "masked+verified", ""])
def test_masked_modes_refuse_it(mode: str, folder: Path, inproc: str) -> None:
    with pytest.raises(ConfigError, match=r"prefix_cache .* has no place in mode masked"):
        LLM("story", threads=1, offload=inproc, mode=mode, prefix_cache=folder)
    assert not folder.exists()


def test_modes_that_are_not_masked_keep_apart(folder: Path, inproc: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="mode plain")
        for cached in (0, 192):
            for mode in ("plain", "verified"):
                assert here(folder, offload=inproc, mode=mode) == cached


@pytest.mark.parametrize("mode", ["plain", "verified", "masked", "masked+verified"])
def test_a_cache_in_8_bits_is_the_same_in_every_mode(mode: str, inproc: str) -> None:
    with LLM("story", threads=1, mode="local", kv_dtype="int8") as llm:
        expected = llm.generate(IDS, PARAMS)[0].outputs[0]
    with LLM("story", threads=1, mode="local") as llm:
        assert llm.generate(IDS, PARAMS)[0].outputs[0].logprobs != expected.logprobs, "nothing was quantised"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="mode plain")
        with LLM("story", threads=1, offload=inproc, mode=mode, kv_dtype="int8") as llm:
            found = llm.generate(IDS, PARAMS)[0].outputs[0]
    assert (found.token_ids, found.logprobs) == (expected.token_ids, expected.logprobs)
