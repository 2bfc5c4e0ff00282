"""A cache in 8 bits under the executors: batch invariance to the bit, the twins, and what it costs in quality."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cutset.kernels._native as native
from cutset import LLM, SamplingParams
from cutset.bench.quality import QualityTexts, common_texts
from cutset.config import Settings
from cutset.engine import Engine
from cutset.models.run.backend import BackendChoice, block_bytes, cache_blocks
from cutset.models.run.decoder import FloatLinears, ReferenceDecoder
from cutset.models.run.executor import Batch
from models.test_native import (
    BLOCK,
    BLOCKS,
    DENSE,
    EDGES,
    LENS,
    SPECS,
    WHOLE,
    batch_of,
    native_decoder,
    reference_decoder,
    tensors_of,
    told_apart,
)

GREEDY = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True)
STORY = "One day, a girl named Mia found a shiny red ball in the garden. She wanted to show it to her friend Tom. "


@pytest.fixture(params=native.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native.isa()
    native.select_isa(request.param)
    yield request.param
    native.select_isa(before)


@pytest.mark.parametrize("name", ["dense", "gemma-like", "sinks", "delta-rule-last", "qk-norm"])
@pytest.mark.usefixtures("isa")
def test_is_batch_invariant(name: str) -> None:
    decoder = native_decoder(SPECS[name])
    new_cache = lambda of=decoder: of.new_cache(BLOCKS, BLOCK, None, "int8")  # noqa: E731
    whole = told_apart(decoder.forward(batch_of(WHOLE), new_cache()))
    threaded = native_decoder(SPECS[name], 3)
    np.testing.assert_array_equal(threaded.forward(batch_of(WHOLE), new_cache(threaded)), whole)
    for s, n in enumerate(LENS):
        alone = decoder.forward(batch_of([(s, 0, n)]), new_cache())
        np.testing.assert_array_equal(alone, whole[EDGES[s] : EDGES[s + 1]])
    cache = new_cache()
    decoder.forward(batch_of([(3, 0, 21), (1, 0, 1)], wanted=[]), cache)
    for first, end in ((21, 60), (60, 61), (61, 70)):
        rows = [(0, 0, 40), (3, first, end)] if first == 60 else [(3, first, end)]
        chunk = decoder.forward(batch_of(rows), cache)[-(end - first) :]
        np.testing.assert_array_equal(chunk, whole[EDGES[3] + first : EDGES[3] + end])
    floats = decoder.forward(batch_of(WHOLE), decoder.new_cache(BLOCKS, BLOCK))
    assert not np.array_equal(floats, whole), "nothing was quantised"


@pytest.mark.parametrize("name", ["dense", "gemma-like", "sinks", "short-convolutions"])
def test_the_twins_agree(name: str) -> None:
    """Up to codes at the border of two: what is computed before is a little different."""
    torch_ops = pytest.importorskip("cutset.models.run.torch_ops")
    spec, tensors = SPECS[name], tensors_of(SPECS[name])
    ops = torch_ops.TorchOps()
    torch = ReferenceDecoder(spec, tensors, ops, FloatLinears(spec, tensors, ops))
    decoders: list[Any] = [reference_decoder(spec), native_decoder(spec), torch]
    caches = [decoder.new_cache(BLOCKS, BLOCK, None, "int8") for decoder in decoders]
    for rows in ([(0, 0, 17), (1, 0, 1)], [(2, 0, 23), (0, 17, 39), (3, 0, 65)], [(0, 39, 40), (3, 65, 70)]):
        twin, *others = (one.forward(batch_of(rows), cache) for one, cache in zip(decoders, caches, strict=True))
        for found in others:
            np.testing.assert_allclose(found, twin, rtol=0, atol=0.02 * float(np.abs(twin).max()))
            assert np.abs(found - twin).mean() < 1e-3 * np.abs(twin).max()


def test_blocks_of_every_executor_can_be_copied() -> None:
    torch_ops = pytest.importorskip("cutset.models.run.torch_ops")
    tensors, ops = tensors_of(DENSE), torch_ops.TorchOps()
    torch = ReferenceDecoder(DENSE, tensors, ops, FloatLinears(DENSE, tensors, ops))
    decoders: list[Any] = [reference_decoder(DENSE), native_decoder(DENSE), torch]
    for decoder in decoders:
        for kv_dtype in ("auto", "int8"):
            cache, other = (decoder.new_cache(BLOCKS, BLOCK, None, kv_dtype) for _ in range(2))
            decoder.forward(batch_of(WHOLE), cache)
            for number in range(BLOCKS):
                for piece, its in zip(cache.block(number), other.block(number), strict=True):
                    assert piece.dtype == np.uint8
                    its[:] = piece
            batch = batch_of([(3, 69, 70), (0, 30, 40)])
            np.testing.assert_array_equal(decoder.forward(batch, other), decoder.forward(batch, cache))
            sizes = [piece.nbytes for piece in cache.block(0)]
            width = 8 + 4 if kv_dtype == "int8" else 4 * 8
            padded = 16 + 4 if kv_dtype == "int8" else 4 * 16
            exact = (width + padded) if isinstance(decoder, type(native_decoder(DENSE))) else 2 * width
            assert sum(sizes) == 3 * 2 * BLOCK * exact
    with pytest.raises(IndexError, match="no such block"):
        native_decoder(DENSE).new_cache(2, BLOCK).block(2)


def test_more_blocks_fit_in_the_same_memory() -> None:
    choice = BackendChoice("native", "float32", "cpu", 1)
    wide = SPECS["dense"]
    floats, int8 = Settings(cache_mib=64), Settings(cache_mib=64, kv_dtype="int8")
    assert block_bytes(wide, choice, floats) == 16 * 2 * 3 * 2 * 8 * 4
    assert block_bytes(wide, choice, int8) == 16 * 2 * 3 * 2 * (8 + 4)
    assert cache_blocks(wide, choice, int8, 512) > 2 * cache_blocks(wide, choice, floats, 512)
    half = BackendChoice("torch", "float16", "cpu", 1)
    assert block_bytes(wide, half, int8) == block_bytes(wide, choice, int8)


@pytest.mark.parametrize("backend", ["native", "reference", "torch"])
def test_the_engine_is_the_same_however_it_runs(backend: str) -> None:
    """Alone, in chunks, batched, from the prefix cache and preempted."""
    prompts = [STORY, "Once upon a time", STORY + "Then"]
    options: dict[str, Any] = {"threads": 1, "backend": backend, "kv_dtype": "int8"}
    with LLM("story", prefix_caching=False, **options) as llm:
        alone = [llm.generate(prompt, GREEDY)[0].token_ids for prompt in prompts]
        cache = llm._engine._cache
    with LLM("story", threads=1, backend=backend, prefix_caching=False) as llm:
        assert llm._engine._cache.nbytes > 2.5 * cache.nbytes * llm._engine._cache.blocks / cache.blocks
    with LLM("story", max_batch_tokens=7, max_num_seqs=5, **options) as llm:
        for _ in range(2):
            assert [one.token_ids for one in llm.generate(prompts, GREEDY)] == alone
        assert llm.stats().prefix_hits > 0
        engine = Engine(llm.executor, llm.tokenizer, blocks=8, block_size=16, kv_dtype="int8", eos_token_ids=())
        for number, prompt in enumerate(prompts):
            engine.add(str(number), llm.encode(prompt), GREEDY)
        deltas = []
        while engine.has_work:
            deltas += engine.step()
        assert engine.stats().preemptions > 0
        for number, tokens in enumerate(alone):
            assert [one for d in deltas if d.request_id == str(number) for one in d.token_ids] == tokens


@pytest.mark.slow
def test_perplexity_hardly_rises_on_real_text(smollm2: Path) -> None:
    with LLM(smollm2, dtype="float32", generation_config=False) as llm:
        executor, found = llm.executor, {}
        for kind in ("auto", "int8"):
            loss, count = 0.0, 0
            for _, ids in QualityTexts.of(llm, common_texts(), 512, 512):
                batch = Batch.whole(ids[None], 16)
                cache: Any = executor.new_cache(batch.block_tables.size, 16, None, kind)
                logits = executor.forward(batch, cache)[:-1].astype(np.float64)
                logits -= logits.max(axis=1, keepdims=True)
                logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
                loss -= logits[np.arange(len(logits)), ids[1:]].sum()
                count += len(logits)
            found[kind] = np.exp(loss / count)
        assert count > 1000
        assert found["auto"] != found["int8"]
        assert found["int8"] <= 1.001 * found["auto"]
