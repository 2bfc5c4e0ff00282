"""Running an engine to its end, and what must hold when it got there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cutset.engine import Delta, Engine, RequestOutput, SamplingParams, collect
from cutset.models.run.executor import Executor

from .fake import ByteTokenizer, FakeExecutor

GREEDY = SamplingParams(temperature=0, max_tokens=12)


def make_engine(executor: Executor | None = None, tokenizer: Any = None, **options: Any) -> Engine:
    options = {"blocks": 64, "block_size": 4, "max_batch_tokens": 64, "max_num_seqs": 8} | options
    return Engine(executor or FakeExecutor(), tokenizer or ByteTokenizer(), **options)


def drain(engine: Engine, *, steps: int = 2000) -> list[Delta]:
    """All deltas until there is no work; then no block is held."""
    deltas: list[Delta] = []
    for _ in range(steps):
        if not engine.has_work:
            break
        deltas += engine.step()
    assert not engine.has_work, "the engine doesn't come to an end"
    assert_empty(engine)
    return deltas


def assert_empty(engine: Engine) -> None:
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0)
    assert stats.blocks_free == stats.blocks


def outputs(deltas: Sequence[Delta]) -> dict[str, RequestOutput]:
    ids = dict.fromkeys(delta.request_id for delta in deltas)
    return {one: collect(one, [delta for delta in deltas if delta.request_id == one]) for one in ids}


def run(
    engine: Engine, requests: Mapping[str, tuple[Sequence[int], SamplingParams]], **add: Any
) -> dict[str, list[list[int]]]:
    """The tokens of each sample of each request, all handed in at once."""
    for request_id, (prompt, params) in requests.items():
        engine.add(request_id, prompt, params, **add)
    return {one: [sample.token_ids for sample in output.outputs] for one, output in outputs(drain(engine)).items()}


def prompts(count: int, *, seed: int = 0, low: int = 1, high: int = 40, vocab: int = 300) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(0, vocab, size=generator.integers(low, high)).tolist() for _ in range(count)]


def added(before: str, whole: str) -> str:
    """What a text has beyond another one: all from the first character that differs."""
    same = 0
    while same < min(len(before), len(whole)) and before[same] == whole[same]:
        same += 1
    return whole[same:]
