"""The whole path, from a prompt to its text, against transformers and against itself run another way."""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset import LLM, AsyncLLM, Grammar, SamplingParams, StructuredOutputsParams
from cutset.engine.grammar_compiler import GrammarCompiler
from cutset.errors import (
    ConfigError,
    ContextLengthError,
    DeviceError,
    ModelError,
    RequestError,
    TokenizerError,
)
from cutset.models.random import RandomModel
from cutset.models.registry import BUNDLED

GREEDY = SamplingParams(max_tokens=48, temperature=0, ignore_eos=True)
PROMPTS = [
    "Once upon a time",
    "The little dog",
    "One day, a girl named Mia found a shiny red ball in the garden. She wanted to show it to her best friend Tom.",
    "It was raining. A small bird sat in the tall tree and was very sad, because its nest was wet and cold. Then",
]
SMALL_BLOCK = {"reference": 2, "native": 16}  # the smallest that still makes long prompts cover several
BACKENDS = pytest.mark.parametrize("backend", ["reference", "native"])


@functools.cache
def alone(backend: str) -> list[list[int]]:
    """What each prompt gives when nobody shares its steps, nothing is cached and the prefill is one piece."""
    with LLM("story", threads=1, prefix_caching=False, backend=backend) as llm:
        found = [llm.generate(prompt, GREEDY)[0].token_ids for prompt in PROMPTS]
    # A decoder that returns zeros says one thing to every prompt, and would equal itself however it is run.
    assert len(set(map(tuple, found))) == len(PROMPTS)
    return found


def greedy_by_whole_passes(llm: LLM, prompt: str, steps: int) -> list[int]:
    """The slow twin: every token from a pass over the whole text, with no cache kept."""
    from cutset.models.run.executor import Batch

    executor = llm._engine.executor
    ids = llm.encode(prompt).tolist()
    start = len(ids)
    for _ in range(steps):
        batch = Batch.whole(np.array([ids], dtype=np.int32), 16)
        logits = executor.forward(batch, executor.new_cache(batch.block_tables.size, 16))
        ids.append(int(logits[-1].argmax()))
    return ids[start:]


def test_story_model_continues_as_in_transformers(story_dir: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(story_dir, dtype=torch.float32).eval()
    with LLM(story_dir) as llm:
        [output] = llm.generate("Once upon a time", SamplingParams(max_tokens=64, temperature=0))
        ids = llm.encode("Once upon a time")
    with torch.no_grad():
        theirs = model.generate(torch.tensor([ids.tolist()]), max_new_tokens=64, do_sample=False)[0, len(ids) :]
    assert output.token_ids == theirs.tolist()
    assert output.text.startswith(", a little girl named Lily lived in a small house with her mom, dad, and her dog")


@pytest.mark.parametrize("backend", ["native", "reference", "torch"])
@pytest.mark.parametrize("which", ["bundled", "story"])
def test_logits_of_trained_models_equal_transformers(which: str, backend: str, request: Any) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    directory = BUNDLED["story"] if which == "bundled" else request.getfixturevalue("story_dir")
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    from cutset.models.run.executor import Batch

    with LLM(directory, backend=backend) as llm:
        ids = llm.encode("Once upon a time there was a dog who lost a red ball.")[None]
        executor = llm._engine.executor
        batch = Batch.whole(ids, 16)
        ours = executor.forward(batch, executor.new_cache(batch.block_tables.size, 16))
    with torch.no_grad():
        theirs = model(torch.from_numpy(ids).long()).logits[0].numpy()
    assert np.abs(theirs).max() > 1
    assert np.linalg.norm(ours - theirs) <= 1e-4 * np.linalg.norm(theirs)


@BACKENDS
def test_prefill_and_decode_equal_whole_passes(backend: str) -> None:
    with LLM("story", threads=1, backend=backend) as llm:
        for prompt, tokens in zip(PROMPTS, alone(backend), strict=True):
            assert greedy_by_whole_passes(llm, prompt, len(tokens)) == tokens


@BACKENDS
@pytest.mark.parametrize(
    "settings",
    [{}, {"max_batch_tokens": 7, "max_num_seqs": 3}, {"prefix_caching": False, "threads": 2}],
    ids=["batch", "prefill in chunks", "two threads"],
)
def test_batched_equals_alone(settings: dict[str, Any], backend: str) -> None:
    options = {"threads": 1, "block_size": SMALL_BLOCK[backend], "backend": backend} | settings
    with LLM("story", **options) as llm:
        assert [output.token_ids for output in llm.generate(PROMPTS, GREEDY)] == alone(backend)


@BACKENDS
def test_cached_equals_uncached(backend: str) -> None:
    with LLM("story", threads=1, block_size=SMALL_BLOCK[backend], backend=backend) as llm:
        first, second = (llm.generate(PROMPTS, GREEDY) for _ in range(2))
    assert [output.token_ids for output in first] == alone(backend)
    assert [output.token_ids for output in second] == alone(backend)
    for output in second[2:]:
        assert output.usage is not None
        assert output.usage.cached_tokens >= 16


@BACKENDS
def test_preempted_equals_not(backend: str) -> None:
    small = SMALL_BLOCK[backend]
    with LLM("story", threads=1, cache_mib=1, block_size=small, prefix_caching=False, backend=backend) as llm:
        copies = 3 + llm.stats().blocks * small // 200  # more than fit at once
        outputs = llm.generate(PROMPTS * copies, GREEDY)
        assert llm.stats().preemptions > 0
        assert llm.stats().blocks_used == 0
    assert [output.token_ids for output in outputs] == alone(backend) * copies


def test_same_seed_same_text_whoever_shares_the_batch() -> None:
    seeded = SamplingParams(max_tokens=32, temperature=0.9, top_p=0.95, seed=11)
    others = SamplingParams(max_tokens=20, temperature=1.0)
    with LLM("story", threads=1) as llm:
        [one] = llm.generate(PROMPTS[0], seeded)
        outputs = llm.generate([*PROMPTS[1:], PROMPTS[0]], [others, others, others, seeded])
        [again] = llm.generate(PROMPTS[0], SamplingParams(max_tokens=32, temperature=0.9, top_p=0.95, seed=12))
    assert outputs[-1].text == one.text
    assert again.text != one.text


def test_n_samples_differ_and_share_the_prompt() -> None:
    seeded: dict[str, Any] = {"max_tokens": 24, "temperature": 1.0, "seed": 5, "ignore_eos": True}
    with LLM("story", threads=1) as llm:
        [output] = llm.generate(PROMPTS[0], SamplingParams(n=3, logprobs=2, **seeded))
        [single] = llm.generate(PROMPTS[0], SamplingParams(n=1, **seeded))
    assert len({one.text for one in output.outputs}) == 3
    assert output.outputs[0].text == single.text
    assert output.usage is not None
    assert output.usage.completion_tokens == sum(len(one.token_ids) for one in output.outputs)
    logprobs = output.outputs[1].logprobs
    assert logprobs is not None
    assert len(logprobs) == len(output.outputs[1].token_ids)
    assert all(len(entry.top) == 2 and entry.logprob <= 0 for entry in logprobs)


def test_stream_joins_to_generate_and_reports() -> None:
    with LLM("story", threads=1) as llm:
        deltas = list(llm.stream(PROMPTS[0], GREEDY))
        [output] = llm.generate([PROMPTS[0]], GREEDY)
    assert "".join(delta.text for delta in deltas) == output.text
    assert deltas[-1].timings is not None
    for value in (deltas[-1].timings.load_s, deltas[-1].timings.ttft_s, deltas[-1].timings.decode_tps):
        assert value is not None
        assert value > 0


def test_leaving_a_stream_frees_its_blocks() -> None:
    with LLM("story", threads=1, prefix_caching=False) as llm:
        for _ in llm.stream(PROMPTS[0], SamplingParams(max_tokens=None, ignore_eos=True, temperature=0)):
            break
        assert llm.generate(PROMPTS[1], GREEDY)[0].token_ids  # the engine goes on
        assert llm.stats().blocks_used == 0
        assert llm.stats().running == 0


def test_stop_string_is_cut_and_never_leaked() -> None:
    with LLM("story", threads=1) as llm:
        full = llm.generate(PROMPTS[0], GREEDY)[0].text
        word = full[20:27]
        seen = ""
        for delta in llm.stream(PROMPTS[0], SamplingParams(max_tokens=48, temperature=0, stop=word)):
            seen += delta.text
            last = delta
    assert seen == full[: full.index(word)]
    assert (last.finish_reason, last.stop_reason) == ("stop", word)


def test_ids_are_a_prompt_too() -> None:
    with LLM("story", threads=1) as llm:
        ids = llm.encode(PROMPTS[0])
        outputs = llm.generate([ids.tolist(), ids], GREEDY)
        outputs += llm.generate(ids.tolist(), GREEDY) + llm.generate(ids, GREEDY) + llm.generate(PROMPTS[0], GREEDY)
    assert len({output.text for output in outputs}) == 1
    assert len(outputs) == 5


def test_async_shares_batches_and_cancels() -> None:
    async def work() -> None:
        async with AsyncLLM("story", threads=1) as llm:
            outputs = await asyncio.gather(*(llm.generate(prompt, GREEDY) for prompt in PROMPTS))
            assert [output.token_ids for output in outputs] == alone("native")
            stream = llm.stream(PROMPTS[0], SamplingParams(max_tokens=None, ignore_eos=True))
            async for delta in stream:
                assert delta.token_ids
                break
            await stream.aclose()
            assert (await llm.generate(PROMPTS[1], GREEDY)).token_ids == alone("native")[1]
            with pytest.raises(RequestError):
                await llm.generate([], GREEDY)

    asyncio.run(work())


def test_a_grammar_is_compiled_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_, threads = GrammarCompiler.compile, list[threading.Thread]()

    def watched(self: GrammarCompiler, grammar: Grammar) -> Any:
        if self.kept(grammar) is None:
            threads.append(threading.current_thread())
        return compile_(self, grammar)

    monkeypatch.setattr(GrammarCompiler, "compile", watched)

    def under(pattern: str) -> SamplingParams:
        return SamplingParams(structured_outputs=StructuredOutputsParams(regex=pattern), seed=1)

    async def work() -> None:
        async with AsyncLLM("story", threads=1) as llm:
            assert (await llm.generate(PROMPTS[0], under("(ab){3}"))).text == "ababab"
            pieces = [delta.text async for delta in llm.stream(PROMPTS[0], under("(cd){3}"))]
            assert "".join(pieces) == "cdcdcd"
            with pytest.raises(RequestError, match="structured_outputs"):
                await llm.generate(PROMPTS[0], under("("))

    asyncio.run(work())
    assert len(threads) == 3
    assert not {threading.main_thread(), *(one for one in threads if one.name == "cutset-engine")} & set(threads)
    with LLM("story", threads=1) as llm:
        found = llm.generate(PROMPTS, [under("a{2}b"), *[SamplingParams(max_tokens=3)] * (len(PROMPTS) - 1)])
        assert found[0].text == "aab"
        assert [piece.text for piece in llm.stream(PROMPTS[0], under("x"))] == ["x"]


def test_a_loop_that_ends_before_its_stream_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """What comes after a cancelled stream may find the event loop closed."""
    llm = AsyncLLM("story", threads=1)

    async def first_piece() -> None:
        async for _ in llm.stream(PROMPTS[0], SamplingParams(max_tokens=None, ignore_eos=True)):
            break

    for _ in range(20):
        asyncio.run(first_piece())
    llm.close()
    assert not caplog.records


def test_a_model_that_nobody_holds_goes() -> None:
    gc.collect()
    before = threading.active_count()
    for _ in range(3):
        assert LLM("story", threads=1, cache_mib=8).generate(PROMPTS[0], SamplingParams(max_tokens=2))
    gc.collect()
    assert threading.active_count() == before


TEMPLATE = "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}<assistant>"


def test_chat_needs_a_template_and_models_yaml_may_give_one(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Tell me a story"}]
    with LLM("story", threads=1) as llm, pytest.raises(TokenizerError, match="no chat template"):
        llm.chat(messages)
    (tmp_path / "models.yaml").write_text(
        json.dumps({"talker": {"path": str(BUNDLED["story"]), "chat_template": TEMPLATE}})
    )
    with LLM("talker", threads=1, models_file=str(tmp_path / "models.yaml")) as llm:
        output = llm.chat(messages, GREEDY)
        assert llm.tokenizer.decode(output.prompt_token_ids).startswith("<user> Tell me a story")
        assert "".join(delta.text for delta in llm.stream_chat(messages, GREEDY)) == output.text


def test_bad_requests_are_refused_before_anything_runs() -> None:
    with LLM("story", threads=1) as llm:
        limit = llm.max_model_len
        with pytest.raises(ContextLengthError, match="2 too many") as caught:
            llm.generate([5] * (limit + 1), GREEDY)
        assert (caught.value.prompt_tokens, caught.value.limit) == (limit + 1, limit)
        for bad in ([], [-1], [llm.spec.vocab_size], [1.5], [[1, 2], [3]], [None]):
            with pytest.raises(RequestError):
                llm.generate([bad], GREEDY)
        with pytest.raises(RequestError, match="one each"):
            llm.generate(PROMPTS, [GREEDY])
        assert llm.stats().steps == 0


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(ModelError, match="nowhere"):
        LLM("nowhere")
    with pytest.raises(DeviceError, match="cuda:7"):
        LLM("story", device="cuda:7", backend="torch")
    with pytest.raises(DeviceError, match="reference"):
        LLM("story", backend="reference", dtype="bfloat16")
    with pytest.raises(ConfigError):
        LLM("story", threads=-1)
    with pytest.raises(ConfigError):
        LLM("story", max_model_len=1 << 20)


def test_ids_that_pad_the_vocabulary_are_never_drawn(tmp_path: Path) -> None:
    RandomModel(vocab=128).write_checkpoint(tmp_path)
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {word: i for word, i in tokenizer["model"]["vocab"].items() if i < 50}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with LLM(tmp_path, threads=1) as llm:
        [output] = llm.generate("t5 t6", SamplingParams(max_tokens=100, temperature=9, seed=1, ignore_eos=True))
    assert len(output.token_ids) == 100
    assert max(output.token_ids) < 50
    assert len(set(output.token_ids)) > 25
