"""Tokens that penalties count: sent once, known again after a loss, and the same draws as where nothing is sent."""

from __future__ import annotations

import numpy as np
import pytest

from cutset.engine import SamplingParams
from cutset.engine.token_history import HistoryPart, KnownHistories, SentHistories, TokenHistory
from cutset.errors import EngineError, FrameError

from .fake import FakeExecutor
from .helpers import drain, outputs, prompts
from .stages import SlowPipeline, staged_engine

VOCAB = 300
PENALTIES = {"repetition_penalty": 1.3, "presence_penalty": 0.2, "frequency_penalty": 0.4}


def history(seed: int) -> TokenHistory:
    return TokenHistory(VOCAB, prompts(1, seed=seed)[0], seen=True, counts=True)


def same(ours: TokenHistory, theirs: TokenHistory) -> bool:
    pairs = [(ours.seen, theirs.seen), (ours.counts, theirs.counts), (ours.ids, theirs.ids)]
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)


def test_a_last_stage_knows_what_was_sent_whoever_takes_turns() -> None:
    rng = np.random.default_rng(0)
    ours = [history(seed) for seed in range(7)]
    sent, known = SentHistories(3), KnownHistories(3, VOCAB)
    sizes = []
    for turn in range(200):
        chosen = [ours[i] for i in rng.permutation(7 if turn % 50 > 40 else 3)[:3]]
        if turn == 100:  # the stage is another one
            known = KnownHistories(3, VOCAB)
            for one in ours:
                one.renew()
        parts = sent.parts((one, len(one.ids)) for one in chosen)
        assert len({part.slot for part in parts}) == 3
        sizes.append(max(len(part.ids) for part in parts))
        for one, part in zip(chosen, parts, strict=True):
            assert same(one, known.take(part, seen=True, counts=True))
            for token in rng.integers(0, VOCAB, rng.integers(1, 4)):  # with drafts there are several
                one.append(int(token))
    assert max(sizes[10:40]) <= 3, "only what is new"
    assert sizes[100] > 40, "all of it after a loss"


def test_what_does_not_follow_is_refused() -> None:
    known = KnownHistories(2, VOCAB)
    ids = np.arange(5, dtype=np.int32)
    known.take(HistoryPart(1, 0, 3, ids), seen=True, counts=False)
    for wrong in (HistoryPart(2, 0, 3, ids), HistoryPart(-1, 0, 3, ids), HistoryPart(0, 0, 6, ids)):
        with pytest.raises(FrameError):
            known.take(wrong, seen=True, counts=False)
    for wrong in (HistoryPart(0, 5, 3, ids), HistoryPart(1, 4, 3, ids), HistoryPart(1, 5, 4, ids)):
        with pytest.raises(EngineError, match="doesn't know the tokens before"):
            known.take(wrong, seen=True, counts=False)
    with pytest.raises(FrameError, match="another thing"):
        known.take(HistoryPart(1, 5, 3, ids), seen=True, counts=True)
    assert known.take(HistoryPart(1, 5, 3, ids), seen=True, counts=False).ids.tolist() == [0, 1, 2, 3, 4] * 2


def sizes(tokens: int, **params: float) -> list[int]:
    """Bytes of each item of one sequence that decodes."""
    pipeline = SlowPipeline([FakeExecutor()])
    engine = staged_engine(pipeline, blocks=64, block_size=16)
    engine.add("a", list(range(40)), SamplingParams(seed=1, max_tokens=tokens, ignore_eos=True, **params))
    [output] = outputs(drain(engine)).values()
    assert len(output.outputs[0].token_ids) == tokens
    return pipeline.sizes[1:]


def test_items_do_not_grow_with_what_was_written() -> None:
    plain, penalised = sizes(120), sizes(120, **PENALTIES)
    more = {b - a for a, b in zip(plain, penalised, strict=True)}
    assert max(more) <= min(more) + 8, "numbers get a byte or two longer"
    assert max(more) < 70


@pytest.mark.parametrize("lose", [(), {3, 17, 18, 40}])
def test_penalties_draw_the_same_over_losses_and_preemptions(lose: tuple[int, ...]) -> None:
    wanted = {
        str(i): (prompt, SamplingParams(seed=i, max_tokens=12, n=1 + i % 3, **PENALTIES))
        for i, prompt in enumerate(prompts(6, seed=4, low=8, high=20))
    }
    found = []
    for pipeline in (SlowPipeline([FakeExecutor()], 1), SlowPipeline([FakeExecutor()], 3, lose=lose, away=1)):
        engine = staged_engine(pipeline, blocks=64 if not found else 15, block_size=4, max_num_seqs=4)
        for name, (prompt, params) in wanted.items():
            engine.add(name, prompt, params)
        got = outputs(drain(engine))
        found.append({name: [one.token_ids for one in got[name].outputs] for name in wanted})
    assert found[0] == found[1]
    assert engine.stats().preemptions > 0
    local = staged_engine(FakeExecutor(), block_size=4, max_num_seqs=4)
    for name, (prompt, params) in wanted.items():
        local.add(name, prompt, params)
    got = outputs(drain(local))
    assert found[0] == {name: [one.token_ids for one in got[name].outputs] for name in wanted}
