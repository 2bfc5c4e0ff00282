"""States of sequences beside the KV cache: slots, checkpoints at block boundaries, preemption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cutset.engine import Engine, SamplingParams
from cutset.engine.states import StatePool
from cutset.models.run.executor import Batch, KVCache
from cutset.models.spec import ConvSpec

from .fake import FakeCache, FakeExecutor, make_spec, slow_logits, slow_mix
from .helpers import GREEDY, drain, make_engine, outputs, prompts, run

MASK = 2**64 - 1


def after(state: int, token: int) -> int:
    """The state after one token more: it depends on all of them and their order."""
    return slow_mix((state * 31 + token + 1) & MASK)


def logits_of(state: int, vocab: int) -> NDArray[np.float32]:
    return np.random.default_rng(state).standard_normal(vocab).astype(np.float32)


class StateExecutor(FakeExecutor):
    """What follows depends on a state in a slot as well as on the cache. Slots begin full of rubbish."""

    def __init__(self) -> None:
        super().__init__(replace(make_spec(), recurrent=ConvSpec(1, 2), recurrent_layers=frozenset({0})))
        self.slots: NDArray[np.uint64] = np.empty(0, np.uint64)
        self.copies = 0

    def new_cache(self, blocks: int, block_size: int, states: int | None = None, kv_dtype: str = "auto") -> FakeCache:
        assert states is not None
        self.slots = np.random.default_rng(3).integers(0, 2**63, states, dtype=np.uint64)
        return super().new_cache(blocks, block_size)

    def forward(self, batch: Batch, cache: KVCache) -> NDArray[np.float32]:
        logits, states = super().forward(batch, cache), batch.states
        assert states is not None
        written = [*states.slots.tolist(), *states.saves[:, 2].tolist()]
        assert len(set(written)) == len(written)
        assert min(written) >= 0
        own = dict(enumerate(states.slots.tolist()))
        for i, source in enumerate(states.sources.tolist()):
            assert source not in written or source == own[i]
        self.copies += len(states.saves)
        rows: list[int] = []
        for i, context in enumerate(batch.context_lens.tolist()):
            start, end = int(batch.row_starts[i]), int(batch.row_starts[i + 1])
            first = context - (end - start)
            assert (states.sources[i] < 0) == (first == 0)
            state = int(self.slots[states.sources[i]]) if states.sources[i] >= 0 else 0
            saves = dict(states.saves_of(i))
            assert all(first < tokens <= context for tokens in saves)
            for row in range(start, end):
                state = after(state, int(batch.token_ids[row]))
                rows.append(state)
                if (slot := saves.get(first + row - start + 1)) is not None:
                    self.slots[slot] = state
            self.slots[states.slots[i]] = state
        return logits + np.array([logits_of(rows[row], self.spec.vocab_size) for row in batch.logit_rows]).reshape(
            logits.shape
        )


def expected(prompt: Sequence[int], tokens: int = 12) -> list[int]:
    ids, state = list(prompt), 0
    for token in ids:
        state = after(state, token)
    for _ in range(tokens):
        logits = slow_logits(ids) + logits_of(state, 300)
        ids.append(int(logits.argmax()))
        state = after(state, ids[-1])
    return ids[len(prompt) :]


COMMON = prompts(1, seed=9, low=22, high=23)[0]
MANY = [*prompts(10), *(COMMON + one for one in prompts(6, seed=2, high=12)), COMMON, COMMON]


def answers(engine: Engine, wanted: list[list[int]]) -> list[list[int]]:
    found = run(engine, {str(i): (prompt, GREEDY) for i, prompt in enumerate(wanted)})
    return [found[str(i)][0] for i in range(len(wanted))]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_batch_tokens": 5, "max_num_seqs": 4},
        {"max_num_seqs": 2, "kept_states": 1},
        {"prefix_caching": False},
        {"blocks": 14, "max_batch_tokens": 7, "max_num_seqs": 5},
        {"blocks": 14, "prefix_caching": False},
        {"kept_states": 0},
    ],
    ids=str,
)
def test_every_sequence_has_its_own_state(options: dict[str, Any]) -> None:
    engine = make_engine(StateExecutor(), **{"blocks": 200} | options)
    right = [expected(prompt) for prompt in MANY]
    for _ in range(2):
        assert answers(engine, MANY) == right
    stats = engine.stats()
    assert (stats.preemptions > 0) == (options.get("blocks") == 14)
    if "blocks" not in options:
        assert (stats.prefix_hits > 0) == (options.get("prefix_caching", True) and options.get("kept_states", 1) > 0)
    pool = engine._scheduler.states
    assert pool is not None
    assert pool.free == engine._scheduler.max_num_seqs


def test_the_same_prompt_is_found_up_to_its_last_full_block() -> None:
    engine = make_engine(StateExecutor())
    for request_id, hits in (("a", 0), ("b", 20)):
        engine.add(request_id, COMMON, GREEDY)
        [output] = outputs(drain(engine)).values()
        assert output.outputs[0].token_ids == expected(COMMON)
        assert engine.stats().prefix_hits == hits


def test_a_beginning_that_came_twice_is_found_the_third_time() -> None:
    engine = make_engine(StateExecutor())
    hits = []
    for i in range(3):
        prompt = [*COMMON[:16], *prompts(1, seed=20 + i, low=9, high=10)[0]]
        assert answers(engine, [prompt]) == [expected(prompt)]
        hits.append(engine.stats().prefix_hits)
    assert hits == [0, 0, 16]


def test_checkpoints_are_kept_within_their_number_the_latest_used_first() -> None:
    engine = make_engine(StateExecutor(), kept_states=2)
    pool = engine._scheduler.states
    assert pool is not None
    first, second, third = prompts(3, seed=4, low=9, high=10)
    for prompt in (first, second, first, third):
        answers(engine, [prompt])
    assert pool.kept == 2
    before = engine.stats().prefix_hits
    assert before == 8
    answers(engine, [first])
    assert engine.stats().prefix_hits == 16
    answers(engine, [second])
    assert engine.stats().prefix_hits == 16


def test_samples_of_a_request_start_from_the_state_after_its_prompt() -> None:
    params = SamplingParams(temperature=0, max_tokens=12, n=3)
    engine = make_engine(StateExecutor())
    assert run(engine, {"a": (COMMON, params)})["a"] == [expected(COMMON)] * 3
    assert engine.stats().prefix_hits == 0  # samples share the first one's prompt, which isn't counted
    assert engine._scheduler.states is not None


def test_a_step_that_fails_gives_its_slots_back() -> None:
    class Failing(StateExecutor):
        def forward(self, batch: Batch, cache: KVCache) -> NDArray[np.float32]:
            if 299 in batch.token_ids:
                raise ValueError("broken")
            return super().forward(batch, cache)

    executor = Failing()
    engine = make_engine(executor, kept_states=2)
    broken = [*COMMON, 299]
    pool = engine._scheduler.states
    assert pool is not None
    for _ in range(5):
        engine.add("a", broken, GREEDY)
        drain(engine)
        assert (pool.free, pool.kept) == (8, 0)
    assert answers(engine, [COMMON, MANY[0]]) == [expected(COMMON), expected(MANY[0])]
    assert executor.copies > 0


def test_a_checkpoint_that_is_being_read_is_not_overwritten() -> None:
    pool = StatePool(3, 1)
    writer = pool.start(None, [4])
    pool.plan(writer, 0, 5)
    pool.advance(pool.take(writer), {4: b"x"})
    reader, other = pool.start(b"x", []), pool.start(None, [4])
    pool.plan(other, 0, 5)
    assert (reader.source, other.saves) == (3, [])
    assert pool.take(reader) == []
    pool.plan(other, 0, 5)
    assert other.saves == [(4, 3)]
    assert not pool.has(b"x")
