"""Engines on several stages, with several steps on their way: tokens and bits are those of an engine on the whole."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cutset.engine import Engine, EngineLoop, SamplingParams
from cutset.errors import ConfigError, EngineError, FrameError, RequestError
from cutset.kernels import native
from cutset.models.files.adapter import LoraAdapter, LowRank
from cutset.models.run.executor import LoadedAdapter
from cutset.models.run.native import NativeDecoder
from cutset.models.spec import DecoderSpec
from models.test_grouped_models import DENSE as GROUPED
from models.test_grouped_models import codes_of
from models.test_native import DENSE, SPECS, tensors_of

from .fake import ByteTokenizer
from .helpers import drain, outputs, prompts
from .stages import LocalPipeline, SlowPipeline, local, stage_decoders, staged_engine

FOUR = replace(DENSE, layers=4, eos_token_ids=(7,))
COMMON = prompts(1, seed=3, low=40, high=41, vocab=61)[0]
PROMPTS = [*prompts(4, seed=1, low=1, high=30, vocab=61), COMMON, [*COMMON, 5], [*COMMON[:20], 9, 3]]
PARAMS = [
    SamplingParams(temperature=0, max_tokens=14),
    SamplingParams(seed=5, top_p=0.9, top_k=20, max_tokens=14),
    SamplingParams(seed=-7, repetition_penalty=1.4, presence_penalty=0.5, frequency_penalty=0.3, max_tokens=14),
    SamplingParams(temperature=0, repetition_penalty=1.2, frequency_penalty=-0.4, max_tokens=14, logprobs=2),
    SamplingParams(seed=2**64 - 1, min_tokens=6, stop_token_ids=list(range(30)), max_tokens=14, logprobs=3),
    SamplingParams(seed=11, n=3, min_p=0.02, temperature=1.7, max_tokens=9, logprobs=0),
    SamplingParams(seed=12, max_tokens=14, ignore_eos=True, stop=["a", "b"]),
]
Requests = Mapping[str, tuple[Sequence[int], SamplingParams]]
REQUESTS: Requests = {f"{p}-{i}": (ids, params) for p, ids in enumerate(PROMPTS) for i, params in enumerate(PARAMS)}
SOME: Requests = {name: REQUESTS[name] for name in ("0-0", "1-1", "4-2", "5-3", "6-4", "5-5")}


def answers(engine: Engine, requests: Requests = SOME, **add: Any) -> dict[str, Any]:
    """All that comes out of each request: tokens, texts, ends, and log-probabilities to the bit."""
    for name, (prompt, params) in requests.items():
        engine.add(name, prompt, params, **add)
    found = outputs(drain(engine))
    assert set(found) == set(requests)
    return {
        name: [(one.token_ids, one.text, one.finish_reason, one.stop_reason, one.logprobs) for one in output.outputs]
        for name, output in found.items()
    }


def whole(spec: DecoderSpec, **options: Any) -> NativeDecoder:
    return NativeDecoder(spec, tensors_of(spec), native.Pool(1), **options)


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    found = answers(staged_engine(whole(FOUR)), REQUESTS)
    assert len({str(one) for one in found.values()}) > len(found) * 0.9
    ends = {sample[2] for samples in found.values() for sample in samples}
    assert ends == {"stop", "length"}
    return found


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_stages_in_threads_give_the_same(stages: int, depth: int, expected: dict[str, Any]) -> None:
    pipeline = local(FOUR, tensors_of(FOUR), stages, depth)
    engine = staged_engine(pipeline)
    before = threading.active_count()
    assert answers(engine, REQUESTS) == expected
    assert answers(engine, SOME) == {name: expected[name] for name in SOME}  # prefixes from the cache
    assert engine.stats().prefix_hits > 0
    pipeline.close()
    pipeline.close()
    assert threading.active_count() == before - (stages if depth > 1 else 0)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(("stages", "depth"), [(1, 1), (1, 3), (2, 2), (4, 6)])
def test_stages_that_are_given_bytes_give_the_same(
    stages: int, depth: int, early: bool, expected: dict[str, Any]
) -> None:
    pipeline = SlowPipeline(stage_decoders(FOUR, tensors_of(FOUR), stages), depth, early=early)
    assert answers(staged_engine(pipeline), REQUESTS) == expected
    assert pipeline.most == depth


@pytest.mark.parametrize(
    "options",
    [
        {"max_batch_tokens": 16, "max_num_seqs": 3},
        {"prefix_caching": False},
        {"blocks": 9, "max_num_seqs": 8},
        {"blocks": 9, "prefix_caching": False, "max_batch_tokens": 9, "max_num_seqs": 9},
        {"max_num_seqs": 1},
        {"max_num_seqs": 64, "blocks": 400},
        {"kv_dtype": "int8"},
    ],
    ids=str,
)
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_however_the_engine_is_set_it_gives_the_same(
    options: dict[str, Any], depth: int, expected: dict[str, Any]
) -> None:
    if "kv_dtype" in options:
        expected = answers(staged_engine(whole(FOUR), **options), REQUESTS)
    engine = staged_engine(SlowPipeline(stage_decoders(FOUR, tensors_of(FOUR), 2), depth), **options)
    assert answers(engine, REQUESTS) == expected
    assert engine.stats().preemptions or options.get("blocks") != 9 or "prefix_caching" in options


@pytest.mark.parametrize("name", SPECS)
def test_every_kind_of_layer(name: str) -> None:
    spec = SPECS[name]
    stages = 3 if name not in ("layers-that-differ", "gates-and-shared-keys") else 2 if "differ" in name else 1
    options = {"blocks": 10, "max_batch_tokens": 32}
    right = answers(staged_engine(whole(spec), **options))
    for pipeline in (
        local(spec, tensors_of(spec), stages, 3),
        SlowPipeline(stage_decoders(spec, tensors_of(spec), stages), 2),
    ):
        engine = staged_engine(pipeline, **options)
        assert answers(engine) == right
        assert answers(engine) == right
        if isinstance(pipeline, LocalPipeline):
            pipeline.close()


@pytest.mark.parametrize("dtype", ["int8", "int4", "exact", "stored"])
def test_every_dtype(dtype: str) -> None:
    spec = replace(GROUPED, layers=3, tied=True)
    tensors = codes_of(spec) if dtype == "stored" else tensors_of(spec)
    right = answers(staged_engine(NativeDecoder(spec, tensors, native.Pool(1), dtype=dtype), kv_dtype="int8"))
    pipeline = SlowPipeline(stage_decoders(spec, tensors, 3, dtype=dtype), 3)
    assert answers(staged_engine(pipeline, kv_dtype="int8")) == right


def adapter(seed: int) -> LoraAdapter:
    rng, parts = np.random.default_rng(seed), []
    for site, layer, expert in FOUR.sites():
        rows, columns = (FOUR.hidden, FOUR.depth(site, layer))
        if site == "gate_up":
            rows = 2 * FOUR.intermediate
        elif site == "qkv":
            rows = FOUR.heads_of(layer).q_size
        elif site == "lm_head":
            rows = FOUR.vocab_size
        down, up = rng.standard_normal((2, columns)), rng.standard_normal((rows, 2))
        parts.append(LowRank(site, layer, expert, 0, down.astype(np.float32), up.astype(np.float32), 0.1))
    return LoraAdapter(f"a{seed}", bytes([seed]) * 16, tuple(parts))


def with_adapters(engine: Engine, loaded: Sequence[LoadedAdapter | None]) -> dict[str, Any]:
    for number, one in enumerate(loaded):
        for name, (prompt, params) in SOME.items():
            engine.add(f"{number}-{name}", prompt, params, adapter=one)
    return {name: [sample.token_ids for sample in output.outputs] for name, output in outputs(drain(engine)).items()}


def test_adapters_of_every_stage() -> None:
    decoder = whole(FOUR)
    loaded = [None, *(decoder.load_adapter(adapter(seed)) for seed in (1, 2))]
    right = with_adapters(staged_engine(decoder), loaded)
    assert right["0-0-0"] != right["1-0-0"] != right["2-0-0"]
    pipeline = local(FOUR, tensors_of(FOUR), 3, 3)
    first = pipeline.load_adapter(adapter(1))
    engine = staged_engine(pipeline)
    assert with_adapters(engine, [None, first, pipeline.load_adapter(adapter(2))]) == right
    pipeline.close()
    slow = SlowPipeline(stage_decoders(FOUR, tensors_of(FOUR), 3), 2)
    engine = staged_engine(slow)
    assert with_adapters(engine, [None, *(slow.load_adapter(adapter(seed)) for seed in (1, 2))]) == right
    engine.add("unknown", [1, 2], adapter=LoadedAdapter("a9", b"x" * 16, None))
    [delta] = drain(engine)
    with pytest.raises(FrameError, match=r"the adapter .a9. isn.t loaded here"):
        raise delta.error or AssertionError


def test_chunks_of_a_prompt_follow_each_other_without_waiting() -> None:
    pipeline = SlowPipeline(stage_decoders(FOUR, tensors_of(FOUR), 2), 3)
    engine = staged_engine(pipeline, max_batch_tokens=12)
    engine.add("a", COMMON, SamplingParams(temperature=0, max_tokens=3))
    assert engine._send(engine._scheduler.schedule) == []
    assert [len(item.batch.token_ids) for item in pipeline.items] == [12, 12, 12]
    assert engine.stats().in_flight == 3
    drain(engine)
    assert [len(item.batch.token_ids) for item in pipeline.items] == [12, 12, 12, 4, 1, 1]
    assert engine.stats().in_flight == 0


def test_a_large_step_is_cut_where_several_are_on_their_way() -> None:
    prompt = prompts(1, seed=5, low=500, high=501, vocab=61)[0]
    for depth, rows in ((1, [400, 100]), (2, [200, 200, 100]), (8, [128, 128, 128, 116])):
        pipeline = SlowPipeline(stage_decoders(FOUR, tensors_of(FOUR), 1), depth)
        engine = staged_engine(pipeline, max_batch_tokens=400)
        engine.add("a", prompt, SamplingParams(temperature=0, max_tokens=1))
        drain(engine)
        assert [len(item.batch.token_ids) for item in pipeline.items] == rows


def test_sequences_are_shared_out_among_the_steps_on_their_way() -> None:
    for depth, rows in ((1, [8]), (2, [4, 4]), (3, [3, 3, 2]), (5, [2, 2, 2, 2])):
        pipeline = SlowPipeline(stage_decoders(FOUR, tensors_of(FOUR), 2), depth)
        engine = staged_engine(pipeline)
        for number in range(8):
            engine.add(str(number), [number], SamplingParams(temperature=0, max_tokens=30, ignore_eos=True))
        for _ in range(40):
            engine.step()
        engine._send(engine._scheduler.schedule)
        last = pipeline.items[-len(rows) :]
        assert sorted((len(item.batch.token_ids) for item in last), reverse=True) == rows
        drain(engine)


def test_nobody_is_left_behind_when_steps_are_uneven() -> None:
    """Every sequence gets its tokens about as soon as the others, though prompts come all the time."""
    pipeline = SlowPipeline(stage_decoders(FOUR, tensors_of(FOUR), 2), 2)
    engine = staged_engine(pipeline, blocks=200, max_num_seqs=7, max_batch_tokens=20)
    for number in range(5):
        engine.add(str(number), [number], SamplingParams(temperature=0, max_tokens=40, ignore_eos=True))
    tokens: dict[str, int] = {}
    for step in range(60):
        if step % 5 == 0:
            engine.add(f"long-{step}", COMMON, SamplingParams(temperature=0, max_tokens=1))
        for delta in engine.step():
            tokens[delta.request_id] = tokens.get(delta.request_id, 0) + 1
    counts = [tokens[str(number)] for number in range(5)]
    assert min(counts) > 10
    assert max(counts) - min(counts) <= 3
    drain(engine)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_request_that_is_cancelled_on_its_way_leaves_no_trace(depth: int, expected: dict[str, Any]) -> None:
    for when in (0, 1, 3, 5, 9):
        engine = staged_engine(SlowPipeline(stage_decoders(FOUR, tensors_of(FOUR), 2), depth), blocks=12)
        for name, (prompt, params) in SOME.items():
            engine.add(name, prompt, params)
        for number in range(3):
            engine.add(f"gone-{number}", COMMON[number:], SamplingParams(n=2, seed=1, max_tokens=20))
        deltas = []
        for _ in range(when):
            deltas += engine.step()
        for number in range(3):
            deltas += engine.abort(f"gone-{number}")
        rest = outputs(deltas + drain(engine))
        for name in SOME:
            assert [one.token_ids for one in rest[name].outputs] == [sample[0] for sample in expected[name]]
        assert answers(engine) == {name: expected[name] for name in SOME}  # nothing wrong was published


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_step_that_fails_ends_its_requests_alone(depth: int, expected: dict[str, Any]) -> None:
    for number in (0, 1, 4, 9):
        engine = staged_engine(
            SlowPipeline(stage_decoders(FOUR, tensors_of(FOUR), 2), depth, fail={number}), max_batch_tokens=30
        )
        for name, (prompt, params) in REQUESTS.items():
            engine.add(name, prompt, params)
        deltas = drain(engine)
        failed = {delta.request_id for delta in deltas if delta.error is not None}
        assert 0 < len(failed) < len(REQUESTS)
        assert all("broken" in str(delta.error) for delta in deltas if delta.error is not None)
        found = outputs([delta for delta in deltas if delta.request_id not in failed])
        for name, output in found.items():
            assert [one.token_ids for one in output.outputs] == [sample[0] for sample in expected[name]]
        assert answers(engine) == {name: expected[name] for name in SOME}


def test_prefill_and_decode_by_hand() -> None:
    for depth in (1, 3):
        engine = staged_engine(SlowPipeline(stage_decoders(FOUR, tensors_of(FOUR), 2), depth), max_batch_tokens=16)
        for number, prompt in enumerate(PROMPTS[3:6]):
            engine.add(str(number), prompt, SamplingParams(temperature=0, max_tokens=8, ignore_eos=True))
        tokens = [[token for delta in engine.prefill(str(number)) for token in delta.token_ids] for number in range(3)]
        assert [len(one) for one in tokens] == [1, 1, 1]
        assert len(engine.decode()) == 3
        assert len(engine.decode()) == 3
        assert {len(output.token_ids) for output in outputs(drain(engine)).values()} == {5}
        with pytest.raises(RequestError, match="no unfinished request"):
            engine.prefill("0")


def test_a_loop_streams_from_stages(expected: dict[str, Any]) -> None:
    pipeline = local(FOUR, tensors_of(FOUR), 3, 3)
    with EngineLoop(staged_engine(pipeline)) as loop:
        handles = {name: loop.submit(prompt, params) for name, (prompt, params) in REQUESTS.items()}
        gone = loop.submit(COMMON, SamplingParams(max_tokens=200, ignore_eos=True))
        next(iter(gone))
        gone.cancel()
        for name, handle in handles.items():
            assert [one.token_ids for one in handle.result().outputs] == [sample[0] for sample in expected[name]]
    pipeline.close()


def test_stages_must_make_a_decoder() -> None:
    first, second, third = stage_decoders(FOUR, tensors_of(FOUR), 3)
    for wrong in ([first, third], [second, third], [first, second], [second, first, third]):
        with pytest.raises(ConfigError, match="all layers between them, in order"):
            LocalPipeline(wrong)
    pipeline = LocalPipeline([first, second, third])
    with pytest.raises(EngineError, match="in one place"):
        Engine(pipeline, ByteTokenizer(), blocks=4, store=object())
    pipeline.close()
