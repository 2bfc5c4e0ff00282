"""`speculate` as users set it: the same answers, what is refused, and what is said."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from cutset import LLM, SamplingParams
from cutset.cli import main
from cutset.config import load_settings
from cutset.engine.drafting import ModelDrafter
from cutset.errors import ConfigError, EngineError, ModelError
from cutset.models.random import RandomModel
from cutset.models.registry import BUNDLED

REPEATING = "The red fox saw the big tree. The red fox saw the big tree. The red fox saw the big"
PARAMS = [
    SamplingParams(temperature=0, max_tokens=60, logprobs=1),
    SamplingParams(seed=7, temperature=0.9, top_p=0.9, max_tokens=60),
    SamplingParams(seed=8, n=3, repetition_penalty=1.1, frequency_penalty=0.2, max_tokens=40),
    SamplingParams(temperature=0, max_tokens=60, stop=["tree", " was "]),
]
PROMPTS = [REPEATING, "Once upon a time", REPEATING, "Tom said: I like cake. Mia said: I like cake. Tom said: I"]


def answers(**options: Any) -> tuple[list[Any], Any]:
    with LLM("story", threads=1, cache_mib=64, **options) as llm:
        found = llm.generate(PROMPTS, PARAMS)
        return [one.outputs for one in found], llm.stats()


@pytest.fixture(scope="module")
def expected() -> list[Any]:
    return answers()[0]


@pytest.mark.parametrize("name", ["ngram", "story"])
@pytest.mark.parametrize("dtype", ["float32", "int8", "exact"])
def test_answers_are_those_without(name: str, dtype: str, expected: list[Any]) -> None:
    right = expected if dtype == "float32" else answers(dtype=dtype)[0]
    found, stats = answers(speculate=name, speculate_tokens=4, dtype=dtype)
    assert found == right
    assert stats.drafted_tokens >= stats.accepted_tokens


def test_a_text_that_repeats_itself_is_guessed() -> None:
    with LLM("story", threads=1, cache_mib=64, speculate="ngram") as llm:
        params = SamplingParams(temperature=0, frequency_penalty=-2, max_tokens=200, ignore_eos=True)
        llm.generate(REPEATING, params)
        assert llm.stats().accepted_tokens > 0  # how many, the real time of a step decides


def test_the_settings_say_what_they_take(tmp_path: Path) -> None:
    assert load_settings().speculate == "off"
    assert load_settings({"speculate": "ngram", "speculate_tokens": 3}).speculate_tokens == 3
    for wrong in (0, 65, -1):
        with pytest.raises(ConfigError, match="speculate-tokens"):
            load_settings({"speculate_tokens": wrong})
    with pytest.raises(ConfigError, match="speculate"):
        load_settings({"speculate": ""})
    with pytest.raises(ModelError, match="no directory"):
        LLM("story", speculate="nothing of the kind", cache_mib=64)


def test_a_draft_model_needs_the_same_tokens(tmp_path: Path) -> None:
    RandomModel(hidden=32, layers=1, vocab=512).write_checkpoint(tmp_path)
    for file in Path(BUNDLED["story"]).glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    path = tmp_path / "tokenizer.json"
    stored = json.loads(path.read_text())
    vocab = stored["model"]["vocab"]
    first, second = list(vocab)[40:42]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    path.write_text(json.dumps(stored))
    with pytest.raises(ConfigError, match=r"its tokens aren't those of the model, the first that differs is \d+"):
        LLM("story", speculate=str(tmp_path), cache_mib=64)


def test_other_backends_say_that_tokens_may_change() -> None:
    with pytest.warns(UserWarning, match="speculation on the reference backend can change tokens"):
        LLM("story", backend="reference", speculate="ngram", cache_mib=64).close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LLM("story", backend="native", speculate="ngram", cache_mib=64).close()


def test_the_command_line_says_how_many_were_right(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for more in ([], ["--speculate", "ngram", "--speculate-tokens", "4"]):
        arguments = ["generate", "story", "--prompt", REPEATING, "--max-tokens", "30", "--cache-mib", "64", *more]
        assert main(arguments) == 0
        out, err = capsys.readouterr()
        texts.append(out)
        assert ("tokens guessed ahead" in err) == bool(more)
    assert texts[0] == texts[1]
    assert main(["generate", "story", "--prompt", "a", "--speculate", "nowhere/at/all"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_stages_at_workers_judge_as_one_process_does() -> None:
    """With as many drafts and log probabilities as there may be, for one sequence alone: large results."""
    params = SamplingParams(temperature=0, frequency_penalty=-2, max_tokens=300, ignore_eos=True, logprobs=20)
    found = []
    several: list[dict[str, Any]] = [{}, {"stages": 2, "speculate": "ngram", "speculate_tokens": 64}]
    for options in several:
        with LLM("story", threads=1, cache_mib=64, max_num_seqs=1, **options) as llm:
            found.append(llm.generate(REPEATING, params)[0].outputs)
            stats = llm.stats()
    assert found[0] == found[1]
    assert stats.accepted_tokens > 0


def test_the_cache_of_a_model_that_drafts_is_counted() -> None:
    with LLM("story", threads=1, cache_mib=4) as llm:
        alone = llm.stats().blocks
    with LLM("story", threads=1, cache_mib=4, speculate="story") as llm:
        assert llm.stats().blocks == alone // 2, "it is as large as the model"
        drafter, cache = llm._engine._speculation, llm._engine._cache
        assert drafter is not None
        assert cache is not None
        assert isinstance(drafter.drafter, ModelDrafter)
        assert 3.9 < (cache.nbytes + drafter.drafter._cache.nbytes) / 2**20 <= 4
    with pytest.raises(EngineError, match=r"cache_mib 1 holds no block; one takes 6\.0 MiB"):
        LLM("story", threads=1, cache_mib=1, block_size=1024, speculate="story")
    with LLM("story", threads=1, cache_mib=4, speculate="ngram") as llm:
        assert llm.stats().blocks == alone
