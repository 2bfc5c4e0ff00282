"""Texts of answers from models with tokenizers of every kind: what a caller gets, streamed or not."""

from __future__ import annotations

import asyncio
import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend

from cutset import LLM, AsyncLLM, RequestOutput, SamplingParams
from cutset.cli import main
from cutset.engine.outputs import collect
from cutset.errors import RequestError
from cutset.models.random import RandomModel
from engine.helpers import added
from models.tokenizers_to_test import DECODERS

GAPS = {"a": 0, "b": 7}
KINDS = ["byte level", "llama", "qwen", "unigram", "word piece", "none", "suffixes", "byte fallback", "metaspace"]


def model_with(folder: Path, backend: Backend, *, vocab: int = 0, **config: object) -> Path:
    """A random model, which likes all tokens about equally, with a tokenizer."""
    size = vocab or max(backend.get_vocab().values()) + 1
    RandomModel(hidden=16, heads=2, kv_heads=1, layers=1, vocab=size).write_checkpoint(folder)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stored | config))
    return folder


def gaps() -> Backend:
    words = {"type": "WordLevel", "vocab": GAPS, "unk_token": "a"}
    state = dict.fromkeys(["truncation", "padding", "normalizer", "post_processor", "decoder"])
    split = {"type": "WhitespaceSplit"}
    return Backend.from_str(
        json.dumps(state | {"version": "1.0", "added_tokens": [], "pre_tokenizer": split, "model": words})
    )


def expected(llm: LLM | AsyncLLM, prompt: list[int], ids: list[int], skip: bool) -> str:
    before = llm.tokenizer.decode(prompt, skip_special_tokens=skip)
    return added(before, llm.tokenizer.decode([*prompt, *ids], skip_special_tokens=skip))


def check(llm: LLM | AsyncLLM, prompt: list[int], output: RequestOutput, skip: bool) -> None:
    for one in output.outputs:
        assert one.text == expected(llm, prompt, one.token_ids, skip)
        assert one.logprobs is not None
        offsets = [told.text_offset for told in one.logprobs]
        assert offsets == sorted(offsets)
        assert not offsets or offsets[-1] <= len(one.text)


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_what_decode_says_beyond_the_prompt(kind: str, tmp_path: Path) -> None:
    """For several samples of a prompt, and in pieces."""
    source = random.Random(kind)
    with LLM(model_with(tmp_path, DECODERS[kind]()), threads=1) as llm:
        taken = [one for one in range(llm.spec.vocab_size) if one not in llm.tokenizer.ids_without_token(1 << 10)]
        for skip in (True, False):
            wanted = {"max_tokens": 24, "ignore_eos": True, "skip_special_tokens": skip, "logprobs": 1, "n": 3}
            params = SamplingParams(temperature=3.0, seed=5, **wanted)
            prompts = [source.choices(taken, k=length) for length in (1, 2, 9)]
            whole = llm.generate(prompts, params)
            for prompt, output in zip(prompts, whole, strict=True):
                check(llm, prompt, output, skip)
                pieces = list(llm.stream(prompt, params))
                joined = ["".join(one.text for one in pieces if one.index == index) for index in range(3)]
                assert joined == [one.text for one in output.outputs]
                assert collect("x", pieces).outputs == output.outputs


def test_async_answers(tmp_path: Path) -> None:
    async def run() -> None:
        async with AsyncLLM(model_with(tmp_path, DECODERS["llama"]()), threads=1) as llm:
            params = SamplingParams(temperature=3.0, seed=5, max_tokens=40, ignore_eos=True, logprobs=1)
            ids = llm.encode("Once").tolist()
            output = await llm.generate("Once", params)
            check(llm, ids, output, True)
            assert "".join([one.text async for one in llm.stream("Once", params)]) == output.text

    asyncio.run(run())


def test_the_story_goes_on_after_its_prompt(story_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--prompt", "The dog said:", "--max-tokens", "10"]
    assert main(["generate", str(story_dir), *asked]) == 0
    assert capsys.readouterr().out == " always to do things that you wanted something special\n"
    with LLM(story_dir, threads=1) as llm:
        [output] = llm.generate("The dog said:", SamplingParams(temperature=0, max_tokens=10, stop=[" always"]))
        assert (output.text, output.outputs[0].stop_reason, len(output.token_ids)) == ("", " always", 1)
        [output] = llm.generate("The dog said:", SamplingParams(temperature=0, max_tokens=10, logprobs=0))
        assert output.outputs[0].logprobs is not None
        offsets = [one.text_offset for one in output.outputs[0].logprobs]
        assert [output.text[a:b] for a, b in pairwise(offsets)][:3] == [" always ", "to ", "do "]


@pytest.mark.parametrize("prompt", ["", "Once upon a time", "The dog said:"])
def test_a_special_token_as_a_stop_string(prompt: str) -> None:
    with LLM("story", threads=1) as llm:
        params = {"temperature": 0, "max_tokens": 400, "ignore_eos": True, "stop": "<|end|>", "logprobs": 0}
        [hidden] = llm.generate(prompt, SamplingParams(**params))
        [shown] = llm.generate(prompt, SamplingParams(**params, skip_special_tokens=False))
        assert hidden.token_ids == shown.token_ids
        assert hidden.token_ids[-1] == llm.tokenizer.eos_token_id
        assert hidden.outputs[0].stop_reason == "<|end|>"
        assert hidden.text == shown.text == expected(llm, llm.encode(prompt).tolist(), hidden.token_ids, True)
        assert "".join(one.text for one in llm.stream(prompt, SamplingParams(**params))) == hidden.text
        assert hidden.outputs[0].logprobs[-1].text_offset == len(hidden.text)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_vocabulary_with_gaps(backend: str, tmp_path: Path) -> None:
    folder = model_with(tmp_path, gaps(), vocab=8, eos_token_id=5)
    with LLM(folder, threads=1, backend=backend) as llm:
        params = SamplingParams(temperature=5, max_tokens=50, seed=1, logprobs=20, n=4)
        [output] = llm.generate("a b", params)
        for one in output.outputs:
            assert set(one.token_ids) == {0, 7}
            assert one.text == expected(llm, [0, 7], one.token_ids, True)
            assert one.logprobs is not None
            for told in one.logprobs:
                assert {token_id for token_id, _ in told.top} == {0, 7}
                assert np.exp([logprob for _, logprob in told.top]).sum() == pytest.approx(1)
        [output] = llm.generate([[0]], SamplingParams(temperature=0, max_tokens=20))
        assert set(output.token_ids) <= {0, 7}
        for prompt in ([1], [0, 6]):
            with pytest.raises(RequestError, match=f"token id {prompt[-1]}, for which the tokenizer has no token"):
                llm.generate([prompt])
        with pytest.raises(RequestError, match="token id 8, outside the vocabulary"):
            llm.generate([[8]])


def test_an_end_token_beyond_the_count_of_tokens_ends_answers(tmp_path: Path) -> None:
    with LLM(model_with(tmp_path, gaps(), vocab=8, eos_token_id=7), threads=1) as llm:
        params = SamplingParams(temperature=5, max_tokens=100, seed=1, n=8)
        for one in llm.generate("a", params)[0].outputs:
            assert (one.finish_reason, one.token_ids.count(7), one.token_ids[-1]) == ("stop", 1, 7)
            assert one.text == " a" * (len(one.token_ids) - 1)
