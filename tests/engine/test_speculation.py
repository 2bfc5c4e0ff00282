"""Speculation: whoever drafts, and however well, tokens, texts, ends and log-probabilities are those without."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cutset.engine import SamplingParams, speculation
from cutset.engine.drafting import Drafter, ModelDrafter, NgramDrafter
from cutset.engine.sequence import Sequence
from cutset.engine.speculation import Speculation
from cutset.errors import ConfigError, FrameError
from cutset.models.families.rope import plain_rope
from models.test_native import DENSE, SPECS, tensors_of

from .helpers import drain, make_engine, outputs
from .stages import SlowPipeline, local, stage_decoders, staged_engine
from .test_stages import FOUR, PARAMS, PROMPTS, adapter, answers, whole

REQUESTS = {f"{p}-{i}": (PROMPTS[p], PARAMS[i]) for p, i in enumerate([3, 1, 2, 0, 4, 5, 6])}
REQUESTS |= {f"long-{i}": (PROMPTS[i], PARAMS[i]) for i in range(7)}
Answers = dict[str, Any]


class Oracle(Drafter):
    """Knows what comes, and says it with some share of wrong tokens; or says always the same."""

    def __init__(self, known: Answers, *, wrong: float = 0.0, shift: int = 1, seed: int = 0, vocab: int = 61) -> None:
        self.known, self.wrong, self.shift, self.vocab = known, wrong, shift, vocab
        self.random = np.random.default_rng(seed)
        self.asked: list[int] = []
        self.ended: list[Sequence] = []

    def draft(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        found = {}
        for sequence, count in wanted.items():
            assert 0 < count <= sequence.limit - sequence.known - 1
            self.asked.append(count)
            tokens = self.known[sequence.request.request_id][sequence.index][0]
            next_ones = tokens[sequence.output_tokens : sequence.output_tokens + count + 3]  # more than was asked for
            found[sequence] = [
                (token + self.shift) % self.vocab if self.random.random() < self.wrong else token for token in next_ones
            ]
        return found

    def forget(self, sequence: Sequence) -> None:
        self.ended.append(sequence)


class Beyond(Drafter):
    def draft(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        return {one: [[10**9, 3], [-1], [], [7, 61, 7]][one.known % 4] for one in wanted}


@pytest.fixture(scope="module")
def expected() -> Answers:
    found = answers(staged_engine(whole(FOUR)), REQUESTS)
    assert {sample[2] for samples in found.values() for sample in samples} == {"stop", "length"}
    return found


def drafters(expected: Answers) -> dict[str, Drafter]:
    return {
        "right": Oracle(expected),
        "wrong": Oracle(expected, wrong=1),
        "often wrong": Oracle(expected, wrong=0.5, seed=1),
        "seldom wrong": Oracle(expected, wrong=0.15, seed=2),
        "beyond the vocabulary": Beyond(),
        "beyond it at times": Oracle(expected, wrong=0.3, shift=500, vocab=10**9),
        "n-grams": NgramDrafter(),
    }


@pytest.mark.parametrize("always", [True, False])
@pytest.mark.parametrize("name", list(drafters({})))
def test_no_drafter_changes_a_token(name: str, always: bool, expected: Answers) -> None:
    drafter = drafters(expected)[name]
    engine = staged_engine(whole(FOUR), drafter=drafter, draft_tokens=5, draft_always=always)
    assert answers(engine, REQUESTS) == expected
    again = answers(engine, REQUESTS)  # prefixes from the cache, of outputs too
    assert again == expected
    stats = engine.stats()
    assert stats.generated_tokens == 2 * sum(len(sample[0]) for samples in expected.values() for sample in samples)
    assert 0 <= stats.accepted_tokens <= stats.drafted_tokens
    if always:  # otherwise it depends on how long steps take
        assert stats.drafted_tokens > 100
        assert stats.accepted_tokens > 100 or name != "right"
    if name == "wrong" and not always:
        assert stats.accepted_tokens == 0
    if isinstance(drafter, Oracle):
        assert len(drafter.ended) == 2 * sum(map(len, expected.values()))
        assert max(drafter.asked) <= 5
    assert not engine._speculation._histories


@pytest.mark.parametrize(
    "options",
    [
        {"max_batch_tokens": 16, "max_num_seqs": 3},
        {"prefix_caching": False},
        {"blocks": 9, "max_num_seqs": 8},
        {"blocks": 9, "prefix_caching": False, "max_batch_tokens": 9, "max_num_seqs": 9},
        {"max_num_seqs": 1},
        {"kv_dtype": "int8"},
        {"block_size": 32, "blocks": 12},
        {"draft_tokens": 40},
        {"draft_tokens": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("stages", [0, 2])
def test_however_the_engine_is_set_it_gives_the_same(options: dict[str, Any], stages: int, expected: Answers) -> None:
    if "kv_dtype" in options:
        expected = answers(staged_engine(whole(FOUR), **options), REQUESTS)
    options = {"draft_tokens": 4, "draft_always": True} | options
    model = SlowPipeline(stage_decoders(FOUR, tensors_of(FOUR), stages), 3) if stages else whole(FOUR)

    class Anywhere(Oracle):
        def draft(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
            size = options.get("block_size", 16)
            assert all(one.known + count <= one.block_count * size for one, count in wanted.items())
            return super().draft(wanted)

    engine = staged_engine(model, drafter=Anywhere(expected, wrong=0.2), **options)
    assert answers(engine, REQUESTS) == expected
    assert engine.stats().accepted_tokens > 10


@pytest.mark.parametrize("name", SPECS)
def test_every_kind_of_layer(name: str) -> None:
    spec = SPECS[name]
    wanted = {n: REQUESTS[n] for n in ("0-3", "1-1", "4-4")}
    expected = answers(staged_engine(whole(spec)), wanted)
    for dtype in ("float32", "int8", "exact"):
        right = expected if dtype == "float32" else answers(staged_engine(whole(spec, dtype=dtype)), wanted)
        engine = staged_engine(
            whole(spec, dtype=dtype), drafter=Oracle(right, wrong=0.3), draft_tokens=4, draft_always=True
        )
        assert answers(engine, wanted) == right
        assert engine.stats().accepted_tokens > 5


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_stages_judge_as_one_does(stages: int, depth: int, expected: Answers) -> None:
    for pipeline in (
        local(FOUR, tensors_of(FOUR), stages, depth),
        SlowPipeline(stage_decoders(FOUR, tensors_of(FOUR), stages), depth, early=True),
    ):
        drafter = Oracle(expected, wrong=0.25)
        engine = staged_engine(pipeline, drafter=drafter, draft_tokens=4, draft_always=True)
        assert answers(engine, REQUESTS) == expected
        assert engine.stats().accepted_tokens > 50
        if not isinstance(pipeline, SlowPipeline):
            pipeline.close()


@pytest.mark.parametrize("depth", [1, 3])
def test_a_loss_in_flight_changes_no_token(depth: int, expected: Answers) -> None:
    wanted = {name: REQUESTS[name] for name in ("0-3", "1-1", "2-2", "5-5")}
    for moment in range(0, 24, 2):
        pipeline = SlowPipeline([whole(FOUR)], depth, lose={moment}, away=moment % 3, early=moment % 4 == 0)
        engine = staged_engine(pipeline, drafter=Oracle(expected, wrong=0.2), draft_tokens=4, draft_always=True)
        assert answers(engine, wanted) == {name: expected[name] for name in wanted}
        assert engine.stats().losses == (moment < pipeline.events)


def test_aborting_in_flight_leaves_nothing_behind(expected: Answers) -> None:
    pipeline = SlowPipeline([whole(FOUR)], 3)
    engine = staged_engine(pipeline, drafter=Oracle(expected), draft_tokens=4, draft_always=True)
    for name in ("0-3", "1-1", "5-5"):
        engine.add(name, *REQUESTS[name])
    deltas = [delta for _ in range(5) for delta in engine.step()]
    assert engine.stats().in_flight
    ended = engine.abort("1-1")
    assert [delta.finish_reason for delta in ended] == ["abort"]
    deltas += drain(engine)
    assert not [delta for delta in deltas[-3:] if delta.request_id == "1-1"]
    kept = [delta for delta in deltas if delta.request_id != "1-1"]
    for name, output in outputs(kept).items():
        assert [one.token_ids for one in output.outputs] == [sample[0] for sample in expected[name]]


def test_what_speculation_leaves_in_the_cache_is_what_there_is_without(expected: Answers) -> None:
    """The bytes of all blocks that can be found, and that they are the same blocks."""
    found = []
    for drafter in (None, Oracle(expected, wrong=0.2)):
        executor = whole(FOUR)
        engine = staged_engine(executor, drafter=drafter, draft_tokens=5, draft_always=True, blocks=200)
        answers(engine, REQUESTS)
        pool, cache = engine._pool, engine._cache
        assert cache is not None
        found.append(
            {digest: [piece.tobytes() for piece in cache.block(block)] for digest, block in pool._published.items()}
        )
    assert found[0] == found[1]
    assert len(found[0]) >= 10


def test_adapters(expected: Answers) -> None:
    decoder = whole(FOUR)
    loaded = decoder.load_adapter(adapter(1))
    wanted = {name: REQUESTS[name] for name in ("0-3", "1-1", "5-5")}
    right = answers(staged_engine(decoder), wanted, adapter=loaded)
    assert right != {name: expected[name] for name in wanted}
    model = ModelDrafter(whole(FOUR), blocks=64, block_size=16, vocab_size=FOUR.vocab_size)  # without the adapter
    for drafter in (Oracle(right, wrong=0.2), model):
        engine = staged_engine(decoder, drafter=drafter, draft_tokens=4, draft_always=True)
        assert answers(engine, wanted, adapter=loaded) == right
        assert answers(engine, wanted) == {name: expected[name] for name in wanted}


def test_nothing_behind_an_end_counts() -> None:
    """A drafter that goes on behind every end; the rest of its drafts is no token of anybody."""
    prompt = list(range(30))
    free = SamplingParams(seed=1, max_tokens=20, ignore_eos=True, logprobs=1)
    [(tokens, text, *_)] = answers(staged_engine(whole(FOUR)), {"a": (prompt, free)})["a"]
    assert len(set(tokens)) > 8
    for params in (
        replace(free, max_tokens=9),
        replace(free, stop_token_ids=[tokens[5]]),
        replace(free, stop_token_ids=[tokens[5]], include_stop_str_in_output=True),
        replace(free, stop_token_ids=[tokens[2]], min_tokens=7),
        replace(free, stop=[text[6:8]]),
        replace(free, stop=[text[6:8]], include_stop_str_in_output=True),
        replace(free, repetition_penalty=1.2, frequency_penalty=0.3, presence_penalty=-0.2),
        replace(free, stop_token_ids=sorted(set(tokens)), min_tokens=19),
    ):
        right = answers(staged_engine(whole(FOUR)), {"a": (prompt, params)})
        drafts = {"a": [(right["a"][0][0] + [5, 6, 7, 8, 9, 10, 11, 12], *right["a"][0][1:])]}
        for most in (1, 3, 7, 19):
            engine = staged_engine(whole(FOUR), drafter=Oracle(drafts), draft_tokens=most, draft_always=True)
            assert answers(engine, {"a": (prompt, params)}) == right
            assert engine.stats().generated_tokens == len(right["a"][0][0])
            assert engine.stats().steps < 3 + len(right["a"][0][0]) / (most + 1) + 1


def test_drafts_wait_for_blocks_and_preempt_nobody() -> None:
    requests = {str(i): (prompt, SamplingParams(temperature=0, max_tokens=40)) for i, prompt in enumerate(PROMPTS)}
    scarce: dict[str, Any] = {"blocks": 10, "prefix_caching": False}
    plain = staged_engine(whole(FOUR), **scarce)
    right = answers(plain, requests)
    engine = staged_engine(whole(FOUR), drafter=Oracle(right), draft_tokens=16, draft_always=True, **scarce)
    assert answers(engine, requests) == right
    assert 0 < engine.stats().preemptions <= plain.stats().preemptions
    assert engine.stats().accepted_tokens > 50


def test_blocks_held_for_drafts_are_given_back_before_anybody_is_preempted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that may get 60 tokens holds blocks for them, and stops after some 40, when the other needs its fifth."""
    free = SamplingParams(seed=1, temperature=2, max_tokens=60, ignore_eos=True)
    [(tokens, *_)] = answers(staged_engine(whole(FOUR)), {"a": ([1, 2, 3], free)})["a"]
    stop = next(token for place, token in enumerate(tokens[36:44], 36) if token not in tokens[:place])
    requests = {
        "a": ([1, 2, 3], replace(free, stop_token_ids=[stop])),
        "b": (list(range(30)), replace(free, max_tokens=40)),
    }
    right = answers(staged_engine(whole(FOUR)), requests)

    class Seldom(Oracle):
        def draft(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
            self.asked += wanted.values()
            return {}

        def ready(self, sequence: Sequence) -> bool:
            return sequence.request.request_id == "a"

    drafter = Seldom(right)
    monkeypatch.setattr(speculation, "FIRST", 56)
    engine = staged_engine(whole(FOUR), blocks=8, drafter=drafter, draft_tokens=56)
    assert answers(engine, requests) == right
    assert max(drafter.asked) > 48
    assert engine.stats().preemptions == 0


def ngram(prompt: list[int], count: int) -> list[int]:
    engine = make_engine()
    engine.add("a", prompt, SamplingParams(max_tokens=100))
    [sequence] = engine._requests["a"].sequences
    drafter = NgramDrafter()
    found = drafter.draft({sequence: count}).get(sequence, [])
    drafter.forget(sequence)
    assert not drafter._indexes
    return found


def test_ngrams_find_the_longest_match_then_the_latest() -> None:
    assert ngram([1, 2], 4) == []
    assert ngram([1, 2, 3, 4, 5, 6], 4) == []
    assert ngram([1, 2, 3, 50, 51, 52, 1, 2, 3], 2) == [50, 51]
    assert ngram([1, 2, 3, 50, 60, 1, 2, 3, 70, 61, 1, 2, 3], 1) == [70]
    assert ngram([9, 1, 2, 3, 50, 60, 8, 1, 2, 3, 70, 61, 9, 1, 2, 3], 2) == [50, 60]
    assert ngram([4, 7, 7, 7, 7], 5) == [7] * 5
    assert ngram([5, 1, 2, 3, 1, 2, 3], 7) == [1, 2, 3, 1, 2, 3, 1]


def test_ngrams_draft_what_repeats_itself() -> None:
    spec = replace(DENSE, layers=1)
    engine = staged_engine(whole(spec), drafter=NgramDrafter(), blocks=400, max_batch_tokens=512)
    prompt = [*range(12)] * 6
    params = SamplingParams(temperature=0, max_tokens=300, ignore_eos=True)
    right = answers(staged_engine(whole(spec), blocks=400, max_batch_tokens=512), {"a": (prompt, params)})
    assert answers(engine, {"a": (prompt, params)}) == right
    assert engine.stats().drafted_tokens > 0


@pytest.mark.parametrize("options", [{}, {"blocks": 9}, {"max_batch_tokens": 9}, {"prefix_caching": False}], ids=str)
def test_a_model_that_drafts_for_itself_is_always_right(options: dict[str, Any], expected: Answers) -> None:
    blocks = options.get("blocks", 64)
    for spec, share in ((FOUR, 0.999), (replace(FOUR, layers=1), 0.0)):
        drafter = ModelDrafter(whole(spec), blocks=blocks, block_size=16, vocab_size=FOUR.vocab_size)
        engine = staged_engine(whole(FOUR), drafter=drafter, draft_tokens=4, draft_always=True, **options)
        for _ in range(2):
            assert answers(engine, REQUESTS) == expected
        stats = engine.stats()
        assert stats.drafted_tokens > 20
        if share:  # what is drafted behind an end counts as wrong
            assert stats.accepted_tokens > 0.5 * stats.drafted_tokens
        assert not drafter._followed


def test_a_draft_model_draws_with_the_sequences_own_numbers() -> None:
    """With the same logits the same tokens are drawn, so all are right: sampled, with penalties, masks."""
    requests = {
        "a": (PROMPTS[1], SamplingParams(seed=3, temperature=1.5, max_tokens=40, ignore_eos=True)),
        "b": (
            PROMPTS[2],
            SamplingParams(seed=4, repetition_penalty=1.5, frequency_penalty=0.5, max_tokens=40, ignore_eos=True),
        ),
        "c": (PROMPTS[3], SamplingParams(seed=5, temperature=2, top_k=9, max_tokens=40, ignore_eos=True, n=2)),
    }
    drafter = ModelDrafter(whole(FOUR), blocks=64, block_size=16, vocab_size=FOUR.vocab_size)
    engine = staged_engine(whole(FOUR), drafter=drafter, draft_tokens=3, clock=map(float, itertools.count()).__next__)
    assert answers(engine, requests) == answers(staged_engine(whole(FOUR)), requests)
    stats = engine.stats()
    assert stats.accepted_tokens == stats.drafted_tokens > 40


def test_a_draft_model_may_have_another_size_of_vocabulary_and_context() -> None:
    small = replace(FOUR, layers=1, vocab_size=70, max_positions=48, rope=plain_rope(1e4, FOUR.head_dim))
    requests = {"a": (PROMPTS[4], SamplingParams(seed=3, max_tokens=60, ignore_eos=True))}
    drafter = ModelDrafter(whole(small), blocks=64, block_size=16, vocab_size=FOUR.vocab_size)
    engine = staged_engine(whole(FOUR), drafter=drafter, draft_tokens=3, draft_always=True)
    assert answers(engine, requests) == answers(staged_engine(whole(FOUR)), requests)


RECURRENT = [name for name, spec in SPECS.items() if spec.recurrent_layers]


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"draft_states": 2},
        {"draft_states": 0},
        {"prefix_caching": False},
        {"blocks": 9, "max_batch_tokens": 16, "max_num_seqs": 4, "kept_states": 1},
    ],
    ids=str,
)
def test_a_state_goes_back_to_where_drafts_were_wrong(name: str, options: dict[str, Any]) -> None:
    spec = SPECS[name]
    wanted = {n: REQUESTS[n] for n in ("0-3", "1-1", "4-4", "5-5", "long-2")}
    right = answers(staged_engine(whole(spec)), wanted)
    options = {"draft_tokens": 4, "draft_always": True} | options
    for model in (whole(spec), SlowPipeline(stage_decoders(spec, tensors_of(spec), 2), 3)):
        engine = staged_engine(model, drafter=Oracle(right, wrong=0.3), **options)
        for _ in range(2):
            assert answers(engine, wanted) == right
        assert (engine.stats().accepted_tokens > 5) == (options.get("draft_states") != 0)
        pool = engine._scheduler.states
        assert pool is not None
        assert pool.free == engine._scheduler.max_num_seqs
        assert len(pool._ahead) == options.get("draft_states", 4 * pool.free)
        slots = [*pool._free, *pool._spare, *pool._ahead, *pool._kept.values()]
        assert sorted(slots) == list(range(pool.slots)), "each slot has one owner"


@pytest.mark.parametrize("depth", [1, 3])
def test_states_and_drafts_outlive_a_loss(depth: int) -> None:
    spec = SPECS[RECURRENT[0]]
    wanted = {n: REQUESTS[n] for n in ("0-3", "1-1", "5-5")}
    right = answers(staged_engine(whole(spec)), wanted)
    for moment in range(0, 24, 5):
        pipeline = SlowPipeline([whole(spec)], depth, lose={moment}, away=moment % 3)
        engine = staged_engine(pipeline, drafter=Oracle(right, wrong=0.3), draft_tokens=3, draft_always=True)
        assert answers(engine, wanted) == right
        engine.add("gone", *REQUESTS["long-2"])
        engine.step()
        engine.abort("gone")
        assert answers(engine, wanted) == right


def test_a_model_with_states_does_not_draft() -> None:
    spec = SPECS[RECURRENT[0]]
    with pytest.raises(ConfigError, match="can't draft"):
        ModelDrafter(whole(spec), blocks=4, block_size=16, vocab_size=spec.vocab_size)


def test_items_with_drafts_are_checked() -> None:
    from cutset.engine.stage_item import StageItem, decode_item, encode_item

    pipeline = SlowPipeline([whole(FOUR)], 1)
    known = answers(staged_engine(whole(FOUR)), {"a": REQUESTS["long-2"], "b": REQUESTS["long-1"]})
    engine = staged_engine(pipeline, drafter=Oracle(known), draft_tokens=4, draft_always=True)
    answers(engine, {"a": REQUESTS["long-2"], "b": REQUESTS["long-1"]})
    item = next(item for item in pipeline.items if list(item.drafted) == [4, 4])
    assert [len(one) for one in item.drafts()] == [4, 4]

    def check(item: StageItem) -> StageItem:
        return decode_item(encode_item(item), pipeline.setup, vocab_size=FOUR.vocab_size)

    read = check(item)
    assert read.drafts() == item.drafts()
    for drafted in ([4, 3], [5, 4], [0, 0], [8, 0], [9, 9]):
        with pytest.raises(FrameError, match=r"of an item has|says how to draw"):
            check(item._replace(drafted=drafted))
    rows = item.batch.logit_rows.copy()
    rows[1:3] = rows[2:0:-1]
    with pytest.raises(FrameError, match="logit_rows"):
        check(item._replace(batch=replace(item.batch, logit_rows=rows)))


def test_a_constant_number_tells_nothing(expected: Answers) -> None:
    """In every step each sequence that decodes has as many rows, whatever its text, but for the end of its answer."""
    for drafter in (NgramDrafter(), Oracle(expected), Oracle(expected, wrong=1)):
        pipeline = SlowPipeline([whole(FOUR)], 1)
        engine = staged_engine(pipeline, drafter=drafter, draft_tokens=3, draft_always=True, blocks=200)
        answers(engine, {"1-1": REQUESTS["1-1"]})
        shapes = [np.diff(item.batch.row_starts).tolist() for item in pipeline.items[1:]]
        assert shapes == sorted(shapes, reverse=True)
        assert set(map(sum, shapes[:-3])) <= {4}


def test_speculation_bounds_what_it_asks_for() -> None:
    speculation = Speculation(NgramDrafter(), 8, vocab_size=300, constant=True)
    assert speculation.wanted([], 100) == {}
    engine = make_engine()
    engine.add("a", [1, 2, 3], SamplingParams(max_tokens=5))
    [sequence] = engine._requests["a"].sequences
    assert speculation.wanted([sequence], -3) == {}
    assert speculation.wanted([sequence], 3) == {sequence: 3}
    assert speculation.wanted([sequence], 100) == {sequence: 4}
