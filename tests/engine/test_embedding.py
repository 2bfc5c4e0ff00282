"""Embeddings in an engine's steps: the bits of each text alone, over stages too, beside what generates."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cutset.engine import Engine, EngineLoop, SamplingParams
from cutset.engine.embedding import EmbeddingJob
from cutset.errors import CutsetError, EngineError, FrameError
from cutset.kernels import native
from cutset.models.pooling import Pooling
from cutset.models.run.executor import Batch
from cutset.models.run.native import NativeDecoder
from models.test_native import DENSE, SPECS, tensors_of

from .helpers import assert_empty, prompts
from .stages import SlowPipeline, local, stage_decoders, staged_engine

FOUR = replace(DENSE, layers=4)
TEXTS = [np.array(ids, dtype=np.int32) for ids in prompts(9, seed=8, low=1, high=70, vocab=61)]
POOLINGS: list[Pooling] = ["last", "mean", "cls"]
Vectors = NDArray[np.float32]


def whole(**options: Any) -> NativeDecoder:
    return NativeDecoder(FOUR, tensors_of(FOUR), native.Pool(1), **options)


def embedded(engine: Engine, *, steps: int = 2000, texts: Any = None) -> dict[Pooling, Any]:
    """What comes of a job of each kind, all of them at once."""
    found: dict[Pooling, Any] = {}
    for pooling in POOLINGS:
        asked = TEXTS if texts is None else texts
        engine.embedding.add(EmbeddingJob(asked, pooling, None, partial(found.__setitem__, pooling)))
    for _ in range(steps):
        if not engine.has_work:
            break
        engine.step()
    assert not engine.has_work
    assert_empty(engine)
    return found


def check(found: dict[Pooling, Any], alone: dict[Pooling, Vectors]) -> None:
    assert set(found) == set(POOLINGS)
    for pooling, vectors in found.items():
        assert isinstance(vectors, np.ndarray), vectors
        assert vectors.tobytes() == alone[pooling].tobytes()


@pytest.fixture(scope="module")
def alone() -> dict[Pooling, Vectors]:
    """The hidden states of each text in one pass, and their plain sums."""
    decoder, found = whole(), {pooling: list[Vectors]() for pooling in POOLINGS}
    for ids in TEXTS:
        cache = decoder.new_cache(8, 16, 1)
        hidden = decoder.final_hidden(Batch.whole(ids[None], 16), cache)
        total = np.zeros(hidden.shape[1])
        for row in hidden:
            total = total + row
        found["mean"].append((total / len(ids)).astype(np.float32))
        found["last"].append(hidden[-1])
        found["cls"].append(hidden[0])
    stacked = {pooling: np.stack(vectors) for pooling, vectors in found.items()}
    assert len({vectors.tobytes() for vectors in stacked.values()}) == 3
    return stacked


@pytest.mark.parametrize(
    "options",
    [{}, {"max_batch_tokens": 8}, {"max_batch_tokens": 256}, {"blocks": 5, "max_batch_tokens": 9}, {"max_num_seqs": 2}],
)
def test_vectors_are_those_of_each_text_alone(options: dict[str, Any], alone: dict[Pooling, Vectors]) -> None:
    engine = staged_engine(whole(), **options)
    check(embedded(engine), alone)
    assert engine.stats().prefix_hits == 0


def test_over_stages(alone: dict[Pooling, Vectors]) -> None:
    pipeline = local(FOUR, tensors_of(FOUR), 2, 3)
    check(embedded(staged_engine(pipeline, max_batch_tokens=16)), alone)
    pipeline.close()
    check(
        embedded(staged_engine(SlowPipeline(stage_decoders(FOUR, tensors_of(FOUR), 3), 4), max_batch_tokens=16)), alone
    )


@pytest.mark.parametrize("early", [True, False])
def test_lost_stages(alone: dict[Pooling, Vectors], early: bool) -> None:
    pipeline = SlowPipeline(stage_decoders(FOUR, tensors_of(FOUR), 2), 3, early=early, lose={3, 10, 21}, away=2)
    engine = staged_engine(pipeline, max_batch_tokens=16)
    check(embedded(engine), alone)
    assert engine.stats().losses == 3


def test_stages_that_don_t_come_back_end_jobs_and_requests() -> None:
    error = EngineError("they are gone")
    pipeline = SlowPipeline(stage_decoders(FOUR, tensors_of(FOUR), 2), 2, lose={5}, error=error)
    engine = staged_engine(pipeline, max_batch_tokens=16)
    found = embedded(engine)
    assert all(isinstance(one, EngineError) and "gone" in str(one) for one in found.values())
    assert len(found) == 3


def test_beside_what_generates(alone: dict[Pooling, Vectors]) -> None:
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    asked = prompts(6, seed=2, low=5, high=40, vocab=61)

    def tokens(embeds: bool, **options: Any) -> dict[str, list[int]]:
        engine, texts = staged_engine(whole(), **options), dict[str, list[int]]()
        for number, prompt in enumerate(asked):
            engine.add(str(number), prompt, params)
        jobs = dict[Pooling, Any]()
        if embeds:
            for pooling in POOLINGS:
                engine.embedding.add(EmbeddingJob(TEXTS, pooling, None, partial(jobs.__setitem__, pooling)))
        while engine.has_work:
            for delta in engine.step():
                assert delta.error is None
                texts.setdefault(delta.request_id, []).extend(delta.token_ids)
        assert_empty(engine)
        if embeds:
            check(jobs, alone)
        return texts

    for options in ({}, {"blocks": 12, "max_batch_tokens": 16}, {"prefix_caching": False}):
        assert tokens(True, **options) == tokens(False, **options)


def test_decoders_with_states() -> None:
    spec = SPECS["short-convolutions"]
    decoder = NativeDecoder(spec, tensors_of(spec), native.Pool(1))
    texts = [ids % spec.vocab_size for ids in TEXTS]
    one = embedded(staged_engine(decoder, max_num_seqs=4), texts=texts)
    other = embedded(staged_engine(decoder, max_num_seqs=2, max_batch_tokens=8), texts=texts)
    for pooling in POOLINGS:
        assert one[pooling].tobytes() == other[pooling].tobytes()
    single = [embedded(staged_engine(decoder), texts=[ids])["mean"][0] for ids in texts]
    assert np.stack(single).tobytes() == one["mean"].tobytes()


def test_a_job_that_nobody_waits_for_ends() -> None:
    engine, results = staged_engine(whole(), max_batch_tokens=8), list[Any]()
    job = EmbeddingJob(TEXTS * 5, "mean", None, results.append)
    engine.embedding.add(job)
    for _ in range(3):
        engine.step()
    assert engine.stats().blocks_used
    job.cancel()
    engine.step()
    assert not engine.has_work
    assert_empty(engine)
    assert not results


def test_a_step_that_fails_ends_its_own_jobs(alone: dict[Pooling, Vectors]) -> None:
    pipeline = SlowPipeline([whole()], fail={1})
    engine, found = staged_engine(pipeline, max_batch_tokens=256), dict[str, Any]()
    engine.embedding.add(EmbeddingJob(TEXTS[:2], "last", None, partial(found.__setitem__, "first")))
    engine.step()
    engine.embedding.add(EmbeddingJob(TEXTS[2:4], "last", None, partial(found.__setitem__, "second")))
    engine.step()
    engine.embedding.add(EmbeddingJob(TEXTS, "last", None, partial(found.__setitem__, "third")))
    while engine.has_work:
        engine.step()
    assert found["first"].tobytes() == alone["last"][:2].tobytes()
    assert isinstance(found["second"], CutsetError)
    assert "broken" in str(found["second"])
    assert found["third"].tobytes() == alone["last"].tobytes()


def test_a_loop_that_ends_tells_who_waits() -> None:
    results = list[Any]()
    loop = EngineLoop(staged_engine(whole(), max_batch_tokens=8))
    for _ in range(50):
        loop.embed(EmbeddingJob(TEXTS, "mean", None, results.append))
    loop.close()
    assert len(results) == 50
    assert isinstance(results[-1], EngineError)
    assert str(results[-1]) == "The engine was closed."
    with pytest.raises(EngineError, match="closed"):
        loop.embed(EmbeddingJob(TEXTS, "mean", None, results.append))


def test_hidden_states_of_another_size_are_refused() -> None:
    from cutset.engine.stage_result import decode_hidden, encode_hidden

    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert decode_hidden(encode_hidden(rows), wanted=2, hidden=3).tobytes() == rows.tobytes()
    for wanted, hidden in ((3, 3), (2, 2), (0, 3)):
        with pytest.raises(FrameError):
            decode_hidden(encode_hidden(rows), wanted=wanted, hidden=hidden)
