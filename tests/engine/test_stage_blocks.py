"""Blocks that stages keep on their own disks: found by the next engine, and never a wrong one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from cutset.engine import Engine, SamplingParams
from cutset.engine.decoder_stage import BATCH, CHOICES, DecoderStage
from cutset.engine.prefix_context import stage_context
from cutset.engine.prefix_store import PrefixStore
from cutset.engine.stage_blocks import (
    MOST_BLOCKS,
    BlocksItem,
    BlocksResult,
    StoredBlock,
    answer,
    decode_blocks,
    decode_found,
    encode_blocks,
    is_blocks,
)
from cutset.engine.stage_item import StageItem, StageSetup, encode_item
from cutset.engine.step_pipeline import StepResult
from cutset.errors import FrameError
from cutset.models.run.backend import BackendChoice
from cutset.models.run.executor import Executor, StageExecutor
from models.test_native import tensors_of

from .fake import FakeExecutor
from .helpers import GREEDY, drain, outputs, prompts
from .stages import SlowPipeline, stage_decoders, staged_engine
from .test_stage_item import item
from .test_stages import FOUR

ASKED = {
    str(i): (prompt, SamplingParams(seed=i, max_tokens=9, ignore_eos=True))
    for i, prompt in enumerate(prompts(4, seed=3, low=20, high=60, vocab=61))
}


class Keeping(SlowPipeline):
    """Its stages keep blocks, all but those whose store is None."""

    def __init__(
        self,
        executors: Sequence[Executor | StageExecutor],
        stores: Sequence[PrefixStore | None],
        *args: Any,
        **how: Any,
    ) -> None:
        super().__init__(executors, *args, **how)
        self.stores = stores
        self.messages: list[BlocksItem] = []
        self.blocks: dict[int, BlocksItem] = {}

    @property
    def keeps_blocks(self) -> bool:
        return True

    def open(self, setup: StageSetup) -> None:
        super().open(setup)
        pairs = zip(self.executors, self.stores, strict=True)
        self.stages = [DecoderStage(one, setup, store, bytes([i])) for i, (one, store) in enumerate(pairs)]

    def send_blocks(self, item: BlocksItem) -> None:
        self.messages.append(item)
        if not self._loses():
            self.blocks[item.number] = item
            in_its_turn: Any = BlocksItem(item.number, (), ())  # among the items
            self.waiting.append((in_its_turn, None))

    def _run(self, item: StageItem) -> Any:
        asked = self.blocks.pop(item.number, None)
        if asked is None:
            return super()._run(item)
        values: dict[str, Any] = {BATCH: np.frombuffer(encode_blocks(asked), np.uint8)}
        try:
            for stage in self.stages:
                values |= stage.run(0, values)
        except Exception as error:
            return StepResult(item.number, None, error)
        return BlocksResult(item.number, *decode_found(values[CHOICES], len(asked.fill)))


@contextlib.contextmanager
def stores(folder: Path, count: int) -> Iterator[list[PrefixStore | None]]:
    made = [PrefixStore(folder, 1 << 24, b"") for _ in range(count)]
    yield [*made]
    for store in made:
        store.close()
        assert store.damaged == 0


def answers(engine: Engine, asked: Any = None) -> dict[str, list[int]]:
    for name, (prompt, params) in (asked or ASKED).items():
        engine.add(name, prompt, params)
    found = {name: one.outputs[0].token_ids for name, one in outputs(drain(engine)).items()}
    engine.rest()
    return found


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("stages", [1, 2])
def test_the_next_engine_finds_what_was_kept(stages: int, depth: int, tmp_path: Path) -> None:
    right = answers(staged_engine(SlowPipeline(stage_decoders(FOUR, tensors_of(FOUR), 1))))
    hits = []
    for options in ({}, {}, {"blocks": 14, "max_num_seqs": 3}, {"max_batch_tokens": 16, "max_num_seqs": 2}):
        with stores(tmp_path / "kept", stages) as kept:
            executors = stage_decoders(FOUR, tensors_of(FOUR), stages)
            engine = staged_engine(Keeping(executors, kept, depth), **options)
            assert answers(engine) == right
            hits.append(engine.stats().stored_hits)
    possible = sum((len(prompt) - 1) // 16 * 16 for prompt, _ in ASKED.values())
    assert hits == [0, possible, possible, possible]


@pytest.mark.parametrize("lose", [{3, 19}, {0, 9, 14}])
def test_a_loss_forgets_what_was_asked(lose: set[int], tmp_path: Path) -> None:
    right = answers(staged_engine(FakeExecutor(), block_size=4))
    for _ in range(2):
        with stores(tmp_path / "kept", 1) as kept:
            engine = staged_engine(Keeping([FakeExecutor()], kept, 2, lose=lose, away=1), block_size=4)
            assert answers(engine) == right
            assert answers(engine) == right
    assert engine.stats().losses == len(lose)
    assert engine.stats().prompt_tokens < sum(len(prompt) for prompt, _ in ASKED.values()), "most came from the disk"


def test_what_had_to_give_way_in_memory_is_read_again(tmp_path: Path) -> None:
    first, second = list(range(40)), list(range(100, 140))
    with stores(tmp_path / "kept", 1) as kept:
        engine = staged_engine(Keeping([FakeExecutor()], kept, 2), block_size=4, blocks=14)
        wanted: dict[str, Any] = {}
        for round_ in range(3):
            for name, prompt in (("first", first), ("second", second)):
                found = answers(engine, {name: (prompt, GREEDY)})
                assert wanted.setdefault(name, found) == found
                store = kept[0]
                assert store is not None
                while store._waiting:
                    time.sleep(0.001)
            assert engine.stats().stored_hits >= 36 * round_


def test_what_went_from_the_disk_is_kept_again(tmp_path: Path) -> None:
    prompts_ = {name: ASKED[name] for name in ("0", "1")}
    with stores(tmp_path / "kept", 1) as kept:
        engine, [store] = staged_engine(Keeping([FakeExecutor()], kept), block_size=4), kept
        assert store is not None
        right = answers(engine, prompts_)
        while store._waiting:
            time.sleep(0.001)
        for path in (tmp_path / "kept").rglob("*.kv"):
            path.unlink()
        store._known.clear()
        engine._pool.forget()
        assert answers(engine, prompts_) == right
        while store._waiting:
            time.sleep(0.001)
        assert len(list((tmp_path / "kept").rglob("*.kv"))) > 5


def test_where_a_stage_keeps_nothing_nobody_is_asked_again(tmp_path: Path) -> None:
    right = answers(staged_engine(SlowPipeline(stage_decoders(FOUR, tensors_of(FOUR), 1))))
    with stores(tmp_path / "kept", 1) as kept:
        pipeline = Keeping(stage_decoders(FOUR, tensors_of(FOUR), 2), [*kept, None], 2)
        engine = staged_engine(pipeline)
        for _ in range(2):
            assert answers(engine) == right
        assert len(pipeline.messages) == 1
        pipeline.lose = {pipeline.events}
        assert answers(engine) == right
        assert len(pipeline.messages) == 2, "other stages are asked once"
    assert not list((tmp_path / "kept").rglob("*.kv")), "nothing that nobody could use"


def test_one_that_is_cancelled_while_it_reads_leaves_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        with stores(tmp_path / "kept", 1) as kept:
            engine = staged_engine(Keeping([FakeExecutor()], kept, 2), block_size=4)
            for name in ("0", "1"):
                engine.add(name, *ASKED[name])
            engine._send(engine._scheduler.schedule)
            engine.abort("0")
            drain(engine)
            assert not engine._scheduler._restoring
            assert not engine._scheduler._asked
            answers(engine)


def message() -> BlocksItem:
    one, two = (StoredBlock(i, bytes([i]) * 16, bytes(16)) for i in (3, 8))
    return BlocksItem(2**40, [one, two], [two])


def data_of(content: bytes) -> Any:
    return np.frombuffer(content, np.uint8)


def test_a_message_comes_back_as_it_was() -> None:
    data = data_of(encode_blocks(message()))
    assert is_blocks(data)
    assert decode_blocks(data, blocks=9, block_size=4) == message()
    assert not is_blocks(data_of(encode_item(item())))
    assert decode_found(answer(True, [True, False]), 2) == (True, [True, False])


@pytest.mark.parametrize(
    "wrong",
    [
        ["blocks", 1, [[9, bytes(16), bytes(16)]], []],
        ["blocks", 1, [], [[-1, bytes(16), bytes(16)]]],
        ["blocks", 1, [[1, bytes(15), bytes(16)]], []],
        ["blocks", 1, [[1, bytes(16), bytes(12)]], []],
        ["blocks", -1, [], []],
        ["blocks", 1, [], [[1, bytes(16), bytes(16)]] * (MOST_BLOCKS + 1)],
        ["blocks", 1, [], [], []],
        ["blocks", 1, []],
    ],
    ids=str,
)
def test_a_wrong_message_is_refused(wrong: Any) -> None:
    with pytest.raises(FrameError):
        decode_blocks(data_of(msgspec.msgpack.encode(wrong)), blocks=9, block_size=4)


def test_damaged_messages_end_in_a_frame_error_or_change_what_they_say() -> None:
    whole, random = encode_blocks(message()), np.random.default_rng(0)
    for _ in range(2000):
        damaged = bytearray(whole)
        damaged[random.integers(len(damaged))] = random.integers(256)
        with contextlib.suppress(FrameError):
            found = decode_blocks(
                data_of(bytes(damaged[: random.integers(1, len(damaged) + 1)])), blocks=9, block_size=4
            )
            assert all(0 <= one.block < 9 and len(one.tokens) == 16 for one in (*found.keep, *found.fill))
    for data in (answer(True, [True]), answer(True, [True] * 3), np.array([1, 2, 0], np.uint8), data_of(b"")):
        with pytest.raises(FrameError):
            decode_found(data, 2)


def test_what_bytes_depend_on_keeps_blocks_of_stages_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = BackendChoice("native", "float32", "cpu", 1)
    found = [
        stage_context(b"model", choice, range(3)),
        stage_context(b"other", choice, range(3)),
        stage_context(b"model", choice, range(1, 3)),
        stage_context(b"model", choice, range(2)),
        stage_context(b"model", replace(choice, dtype="int8"), range(3)),
        stage_context(b"model", replace(choice, backend="reference"), range(3)),
        stage_context(b"model", replace(choice, backend="reference", threads=2), range(3)),
    ]
    monkeypatch.setattr("cutset.engine.prefix_context.native.isa", lambda: "another one")
    found.append(stage_context(b"model", choice, range(3)))
    assert len(set(found)) == len(found)
    monkeypatch.undo()
    assert stage_context(b"model", replace(choice, threads=2), range(3)) == found[0], "natively threads change no bit"
