"""Requests in the background: all others go before them and get their places; their tokens are the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutset.engine import SamplingParams
from cutset.engine.embedding import EmbeddingJob

from .fake import FakeExecutor
from .helpers import GREEDY, drain, make_engine, outputs, prompts
from .twin import slow_generate


def finished(deltas: list) -> list[str]:
    return [delta.request_id for delta in deltas if delta.finished]


def test_who_comes_later_goes_before_what_waits_in_the_background() -> None:
    engine = make_engine(max_num_seqs=1)
    for name in ("first", "second"):
        engine.add(name, [1, 2], GREEDY, background=True)
    engine.add("third", [1, 2, 3], GREEDY)
    assert finished(drain(engine)) == ["third", "first", "second"]


@pytest.mark.parametrize("options", [{"max_num_seqs": 2}, {"blocks": 8}], ids=["places", "blocks"])
@pytest.mark.parametrize("prefix_caching", [True, False])
def test_who_finds_no_place_gets_that_of_the_youngest_in_the_background(options: dict, prefix_caching: bool) -> None:
    """The first token comes in the next step, though two long ones run."""
    engine = make_engine(prefix_caching=prefix_caching, **options)
    long = replace(GREEDY, max_tokens=14)
    for name in ("old", "young"):
        engine.add(name, [5, *range(9)] if name == "old" else [6, *range(9)], long, background=True)
    before = [delta for _ in range(3) for delta in engine.step()]
    assert {delta.request_id for delta in before} == {"old", "young"}
    engine.add("now", [7, *range(9)], GREEDY)
    step = engine.step()
    assert {delta.request_id for delta in step} == {"old", "now"}
    assert engine.stats().preemptions == 1
    deltas = before + step + drain(engine)
    assert finished(deltas).index("now") < finished(deltas).index("young")
    found = outputs(deltas)
    for name, first, params in (("old", 5, long), ("young", 6, long), ("now", 7, GREEDY)):
        assert found[name].outputs[0].token_ids == slow_generate([first, *range(9)], params)


def test_what_is_in_the_background_preempts_nobody() -> None:
    engine = make_engine(max_num_seqs=2)
    for name in ("a", "b"):
        engine.add(name, [1, 2], replace(GREEDY, max_tokens=6))
    before = engine.step()
    engine.add("behind", [3], GREEDY, background=True)
    deltas = before + drain(engine)
    assert engine.stats().preemptions == 0
    assert finished(deltas)[-1] == "behind"


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_tokens_are_the_same_however_others_come_between(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 7))
    given_prompts = prompts(count, seed=data.draw(st.integers(0, 99)), high=12)
    behind = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    engine = make_engine(blocks=24, max_num_seqs=3, prefix_caching=data.draw(st.booleans()))
    params = [SamplingParams(temperature=0.8, seed=one, max_tokens=9, n=1 + one % 2) for one in range(count)]
    deltas = []
    for one, prompt in enumerate(given_prompts):
        engine.add(str(one), prompt, params[one], background=behind[one])
        for _ in range(data.draw(st.integers(0, 3))):
            deltas += engine.step()
    alone = {}
    for one, prompt in enumerate(given_prompts):
        other = make_engine()
        other.add(str(one), prompt, params[one])
        alone |= outputs(drain(other))
    found = outputs(deltas + drain(engine))
    for name, output in alone.items():
        assert [one.token_ids for one in found[name].outputs] == [one.token_ids for one in output.outputs]


def test_embeddings_in_the_background_come_after_others() -> None:
    import numpy as np

    engine = make_engine(FakeExecutor(), max_num_seqs=1, max_batch_tokens=8)
    order: list[str] = []

    def job(name: str, *, background: bool) -> EmbeddingJob:
        ids = [np.arange(6, dtype=np.int32)] * 3
        return EmbeddingJob(ids, "last", None, lambda found: order.append(name), background=background)

    engine.embedding.add(job("behind", background=True))
    engine.embedding.add(job("now", background=False))
    drain(engine)
    assert order == ["now", "behind"]
