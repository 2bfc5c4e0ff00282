"""Stages that go away at every moment: the same tokens, nothing said twice, nothing left behind."""

from __future__ import annotations

import pytest

from cutset.engine import Engine, SamplingParams
from cutset.errors import LinkError

from .fake import FakeExecutor
from .helpers import drain, outputs, prompts
from .stages import SlowPipeline, staged_engine
from .test_states import StateExecutor
from .test_states import expected as state_tokens

COMMON = prompts(1, seed=9, low=22, high=23)[0]
REQUESTS = {
    "greedy": (COMMON, SamplingParams(temperature=0, max_tokens=6)),
    "sampled": ([*COMMON[:16], 3], SamplingParams(seed=3, top_p=0.9, max_tokens=6, logprobs=1)),
    "samples": (prompts(1, seed=2, low=9, high=10)[0], SamplingParams(seed=4, n=3, max_tokens=5)),
    "penalised": ([1, 2, 3], SamplingParams(seed=5, repetition_penalty=1.3, frequency_penalty=0.4, max_tokens=9)),
}
OPTIONS = {"block_size": 4, "max_batch_tokens": 12, "max_num_seqs": 6}
Answers = dict[str, list[tuple[list[int], str, object]]]


def answers(engine: Engine, *, requests: dict[str, tuple[list[int], SamplingParams]] = REQUESTS) -> Answers:
    for name, (prompt, params) in requests.items():
        engine.add(name, prompt, params)
    found = outputs(drain(engine))
    return {name: [(s.token_ids, s.text, s.logprobs) for s in output.outputs] for name, output in found.items()}


@pytest.fixture(scope="module")
def expected() -> Answers:
    return answers(staged_engine(FakeExecutor(), **OPTIONS))


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("blocks", [64, 16])
@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_loss_at_any_moment_changes_no_token(
    every: int, blocks: int, depth: int, early: bool, expected: Answers
) -> None:
    whole = SlowPipeline([FakeExecutor()], depth)
    assert answers(staged_engine(whole, blocks=blocks, **OPTIONS)) == expected
    for moment in range(depth % every, whole.events, every):
        pipeline = SlowPipeline([FakeExecutor()], depth, early=early, lose={moment}, away=moment % 3)
        engine = staged_engine(pipeline, blocks=blocks, **OPTIONS)
        assert answers(engine) == expected
        assert engine.stats().losses == 1
        assert engine.stats().in_flight == 0


@pytest.mark.parametrize("depth", [1, 3])
def test_any_number_of_losses_changes_no_token(depth: int, expected: Answers) -> None:
    for seed in range(6):
        lose = set(prompts(1, seed=seed, low=20, high=40, vocab=300)[0])
        engine = staged_engine(SlowPipeline([FakeExecutor()], depth, lose=lose), blocks=24, **OPTIONS)
        assert answers(engine) == expected
        assert engine.stats().losses > 1


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_states_of_sequences_are_made_again(depth: int) -> None:
    wanted = [COMMON, [*COMMON, 5], prompts(1, seed=7)[0], COMMON]
    requests = {str(i): (prompt, SamplingParams(temperature=0, max_tokens=12)) for i, prompt in enumerate(wanted)}
    whole = SlowPipeline([StateExecutor()], depth)
    right = {name: state_tokens(prompt) for name, (prompt, _) in requests.items()}
    for moment in [None, *range(0, 60, 7)]:
        pipeline = SlowPipeline([StateExecutor()], depth, lose=() if moment is None else {moment})
        engine = staged_engine(pipeline, blocks=20, kept_states=2, **OPTIONS)
        for _ in range(2):
            found = answers(engine, requests=requests)
            assert {name: samples[0][0] for name, samples in found.items()} == right
        pool = engine._scheduler.states
        assert pool is not None
        assert pool.free == engine._scheduler.max_num_seqs
        assert pool.kept + len(pool._spare) == 2
    assert whole.events == 0


def test_nothing_is_found_again_that_was_lost() -> None:
    pipeline = SlowPipeline([FakeExecutor()], 2)
    engine = staged_engine(pipeline, **OPTIONS)
    answers(engine)
    pipeline.lose = {pipeline.events}
    hits = engine.stats().prefix_hits
    engine.add("again", *REQUESTS["greedy"])
    engine.step()
    assert engine.stats().losses == 1
    assert engine.stats().running == 0
    deltas = drain(engine)
    assert engine.stats().prefix_hits <= hits + 20
    assert len(deltas) == 6


def test_where_there_will_be_no_stages_all_requests_end_with_the_reason() -> None:
    error = LinkError("No worker is left that has layers 3 to 5.")
    pipeline = SlowPipeline([FakeExecutor()], 2, lose={3}, error=error)
    engine = staged_engine(pipeline, **OPTIONS)
    for name, (prompt, params) in REQUESTS.items():
        engine.add(name, prompt, params)
    deltas = drain(engine)
    assert {delta.request_id for delta in deltas if delta.error is error} == set(REQUESTS)
    pipeline.error = None
    assert answers(engine)  # those that come later are run


def test_while_there_are_no_stages_the_engine_waits_and_obeys() -> None:
    pipeline = SlowPipeline([FakeExecutor()], 2)
    engine = staged_engine(pipeline, **OPTIONS)
    pipeline.absent = 5
    engine.add("a", *REQUESTS["greedy"])
    engine.add("b", *REQUESTS["sampled"])
    for _ in range(3):
        assert engine.step() == []
    assert [delta.finish_reason for delta in engine.abort("b")] == ["abort"]
    assert len(drain(engine)) == 6


def test_what_cannot_be_sent_fails_alone() -> None:
    class Refusing(SlowPipeline):
        def send(self, item: object) -> None:
            raise LinkError("The first worker can't be reached.")

    engine = staged_engine(Refusing([FakeExecutor()], 2), **OPTIONS)
    engine.add("a", *REQUESTS["greedy"])
    with pytest.raises(LinkError, match="can't be reached"):
        raise drain(engine)[0].error or AssertionError


def test_results_of_before_a_loss_are_not_taken() -> None:
    class Late(SlowPipeline):
        """Gives what it gave before once more, after a loss."""

        def receive(self, *, wait: bool) -> object:
            result = super().receive(wait=wait)
            return self._run(self.items[0]) if result is None and self.items else result

    whole = answers(staged_engine(FakeExecutor(), **OPTIONS))
    assert answers(staged_engine(Late([FakeExecutor()], 3, lose={4}, away=2), **OPTIONS)) == whole
