"""Several steps on their way, and what becomes of them when their sequences go another way meanwhile."""

from __future__ import annotations

import pytest

from cutset.engine import Delta, Engine, SamplingParams
from cutset.engine.step import Step

from .fake import FakeExecutor
from .helpers import GREEDY, drain, outputs, prompts, run
from .stages import SlowPipeline, staged_engine
from .test_states import StateExecutor
from .test_states import expected as state_tokens

COMMON = prompts(1, seed=9, low=22, high=23)[0]
OPTIONS = {"block_size": 4, "max_batch_tokens": 12, "max_num_seqs": 8}
MANY = {str(i): (prompt, SamplingParams(temperature=0, max_tokens=20)) for i, prompt in enumerate(prompts(12, high=14))}


@pytest.fixture(scope="module")
def right() -> dict[str, list[list[int]]]:
    return run(staged_engine(FakeExecutor(), **OPTIONS), MANY)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("caching", [False, True])
def test_sequences_are_preempted_while_they_are_on_their_way(
    caching: bool, depth: int, early: bool, right: dict[str, list[list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = SlowPipeline([FakeExecutor()], depth, early=early)
    engine = staged_engine(pipeline, blocks=18, prefix_caching=caching, **OPTIONS)
    for name, (prompt, params) in MANY.items():
        engine.add(name, prompt, params)
    wasted, advance = [], engine._scheduler.advance

    def counted(step: Step) -> None:
        wasted.append(len(step.concerned()) < len(step.sequences))
        advance(step)

    monkeypatch.setattr(engine._scheduler, "advance", counted)
    deltas = drain(engine)
    assert engine.stats().preemptions > 5
    assert any(wasted) == (depth > 1), "nobody was preempted on the way"
    assert {name: [one.token_ids for one in output.outputs] for name, output in outputs(deltas).items()} == right
    assert engine.stats().generated_tokens == sum(len(delta.token_ids) for delta in deltas)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_nothing_is_said_of_a_request_after_its_end(depth: int, right: dict[str, list[list[int]]]) -> None:
    for moment in range(1, 16, 4):
        engine = staged_engine(SlowPipeline([FakeExecutor()], depth), blocks=40, **OPTIONS)
        for name, (prompt, params) in MANY.items():
            engine.add(name, prompt, params)
        deltas = [delta for _ in range(moment) for delta in engine.step()]
        gone = [name for name in MANY if int(name) % 3 == 0 and name in engine._requests]
        assert [len(engine.abort(name)) for name in gone] == [1] * len(gone)
        rest = drain(engine)
        assert not {delta.request_id for delta in rest} & set(gone)
        found = outputs([delta for delta in deltas + rest if delta.request_id not in gone])
        assert {name: [one.token_ids for one in output.outputs] for name, output in found.items()} == {
            name: tokens for name, tokens in right.items() if name not in gone
        }
        assert run(engine, MANY) == right


class Grouped(SlowPipeline):
    """More items may be on their way than there are groups."""

    groups = 2


def test_sequences_are_shared_out_among_groups_and_not_among_all_steps() -> None:
    pipeline = Grouped([FakeExecutor()], 3)
    engine = staged_engine(pipeline, blocks=64, block_size=4, max_batch_tokens=64, max_num_seqs=8)
    for number in range(8):
        engine.add(str(number), [1, 2, 3], SamplingParams(temperature=0, max_tokens=8))
    drain(engine)
    decodes = [len(item.known) for item in pipeline.items if len(item.batch.token_ids) == len(item.known)]
    assert set(decodes) == {4}, "two groups of four"


@pytest.mark.parametrize(
    ("tokens", "chunks"), [(100, [100]), (200, [100, 100]), (384, [256, 64, 64]), (500, [256, 122, 122])]
)
def test_the_last_chunk_of_a_prompt_is_small_where_stages_wait_for_it(tokens: int, chunks: list[int]) -> None:
    options = {"block_size": 16, "blocks": 64, "max_batch_tokens": 512}
    prompt = [3 + number % 20 for number in range(tokens)]
    params = SamplingParams(temperature=0, max_tokens=2)
    whole = FakeExecutor()
    right = run(staged_engine(whole, **options), {"a": (prompt, params)})
    pipeline = Grouped([FakeExecutor()], 3)
    assert run(staged_engine(pipeline, **options), {"a": (prompt, params)}) == right
    rows = [len(item.batch.token_ids) for item in pipeline.items]
    assert rows[: len(chunks)] == chunks
    assert sum(chunks) == tokens
    assert whole.log[0] == [tokens], "one stage waits for nobody"


def test_a_request_may_come_back_while_its_old_steps_are_on_their_way() -> None:
    whole = run(staged_engine(FakeExecutor(), **OPTIONS), {"a": (COMMON, GREEDY)})
    for depth in (2, 3):
        engine = staged_engine(SlowPipeline([FakeExecutor()], depth), **OPTIONS)
        for _ in range(4):
            engine.add("a", COMMON, GREEDY)
            engine.step()
            engine.abort("a")
        assert run(engine, {"a": (COMMON, GREEDY)}) == whole


@pytest.mark.parametrize("failed", range(4))
@pytest.mark.parametrize("depth", [2, 3])
def test_blocks_of_a_step_are_found_when_it_has_come_back(depth: int, failed: int) -> None:
    """Chunks of a prompt that follow one that fails are on their way, and those before have been published."""
    whole = run(staged_engine(FakeExecutor(), **OPTIONS), {"a": (COMMON * 2, GREEDY)})
    pipeline = SlowPipeline([FakeExecutor()], depth, fail={failed})
    engine = staged_engine(pipeline, **OPTIONS)
    engine.add("a", COMMON * 2, GREEDY)
    deltas = drain(engine)
    assert [str(delta.error) for delta in deltas] == ["Request 'a' was lost: broken."]
    assert run(engine, {"a": (COMMON * 2, GREEDY)}) == whole
    assert engine.stats().prefix_hits == failed * 12


def told(engine: Engine, deltas: list[Delta]) -> list[list[int]]:
    found = outputs(deltas + drain(engine))
    return [found[str(i)].token_ids for i in range(len(found))]


@pytest.mark.parametrize("depth", [2, 4])
def test_checkpoints_of_steps_that_come_to_nothing_are_given_up(depth: int) -> None:
    prompts_of = [[*COMMON[:i], *COMMON] for i in range(6)]
    for moment in range(1, 10, 3):
        engine = staged_engine(SlowPipeline([StateExecutor()], depth), blocks=60, kept_states=2, **OPTIONS)
        for i, prompt in enumerate(prompts_of):
            engine.add(str(i), prompt, GREEDY)
            engine.add(f"gone-{i}", prompt[::-1], GREEDY)
        deltas = [delta for _ in range(moment) for delta in engine.step()]
        for i in range(6):
            engine.abort(f"gone-{i}")
        deltas = [delta for delta in deltas if not delta.request_id.startswith("gone")]
        assert told(engine, deltas) == [state_tokens(prompt) for prompt in prompts_of]
        pool = engine._scheduler.states
        assert pool is not None
        assert pool.free == engine._scheduler.max_num_seqs
        assert pool.kept + len(pool._spare) == 2
