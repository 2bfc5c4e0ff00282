"""Engines on stages: in threads, by bytes as between machines, and behind a pipeline that loses them."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from cutset.engine import Engine
from cutset.engine.decoder_stage import BATCH, CHOICES, HIDDEN, DecoderStage
from cutset.engine.local_pipeline import LocalPipeline
from cutset.engine.stage_item import StageItem, StageSetup, decode_setup, encode_item, encode_setup
from cutset.engine.stage_result import decode_choices, decode_hidden
from cutset.engine.step_pipeline import StagesLost, StepPipeline, StepResult
from cutset.engine.token_history import KnownHistories, SentHistories
from cutset.errors import CutsetError
from cutset.kernels import native
from cutset.models.files.adapter import LoraAdapter
from cutset.models.files.checkpoint import Tensor
from cutset.models.run.executor import Executor, LoadedAdapter, StageExecutor
from cutset.models.run.native import NativeDecoder
from cutset.models.spec import DecoderSpec
from cutset.models.stages import split

from .fake import ByteTokenizer


def stage_decoders(
    spec: DecoderSpec, tensors: Mapping[str, Tensor], stages: int | Sequence[range], **options: Any
) -> list[NativeDecoder]:
    """Native executors of consecutive layers, each with threads of its own."""
    ranges = split(spec, stages) if isinstance(stages, int) else stages
    return [NativeDecoder(spec, tensors, native.Pool(1), layers=layers, **options) for layers in ranges]


def staged_engine(pipeline: StepPipeline | Executor, **options: Any) -> Engine:
    options = {"blocks": 64, "block_size": 16, "max_batch_tokens": 64, "max_num_seqs": 8} | options
    return Engine(pipeline, ByteTokenizer(), **options)


def local(spec: DecoderSpec, tensors: Mapping[str, Tensor], stages: int, depth: int, **options: Any) -> LocalPipeline:
    return LocalPipeline(stage_decoders(spec, tensors, stages, **options), depth=depth)


class SlowPipeline(StepPipeline):
    """Runs items late, when their results are asked for, or at once, and gives the results in both cases late.

    It loses its stages when the results or the items of some numbers (from 0, counted together as they come) are asked
    for or sent; then the caches are full of rubbish.
    """

    def __init__(
        self,
        executors: Sequence[Executor | StageExecutor],
        depth: int = 1,
        *,
        early: bool = False,
        lose: Collection[int] = (),
        error: CutsetError | None = None,
        fail: Collection[int] = (),  # items, by number
        away: int = 0,  # receives without stages after a loss
    ) -> None:
        self.executors, self.deep, self.early = executors, depth, early
        self.lose, self.error, self.fail, self.away = set(lose), error, set(fail), away
        self.events = 0
        self.most = 0  # items that were on their way at once
        self.waiting: deque[tuple[StageItem, StepResult | None]] = deque()
        self.lost = False
        self.absent = 0
        self.items: list[StageItem] = []

    @property
    def spec(self) -> DecoderSpec:
        return self.executors[0].spec

    @property
    def depth(self) -> int:
        return 0 if self.absent else self.deep

    def open(self, setup: StageSetup) -> None:
        self.setup = decode_setup(encode_setup(setup))
        self.stages = [DecoderStage(one, self.setup) for one in self.executors]
        self.histories = SentHistories(self.setup.sequences)
        self.sizes: list[int] = []  # of items in bytes, in the order in which they were run

    def load_adapter(self, adapter: LoraAdapter, *, in_bytes: bool = False) -> LoadedAdapter:
        for stage in self.stages:
            stage.load_adapter(adapter, in_bytes=in_bytes)
        return LoadedAdapter(adapter.name, adapter.digest, None)

    def send(self, item: StageItem) -> None:
        assert sum(isinstance(one, StageItem) for one, _ in self.waiting) < self.deep
        self.items.append(item)
        if self._loses():
            return
        self.waiting.append((item, self._run(item) if self.early else None))
        self.most = max(self.most, len(self.waiting))

    def receive(self, *, wait: bool) -> StepResult | StagesLost | None:
        if self.absent:
            self.absent -= 1
            return None
        if self.lost or self._loses():
            self.lost, self.absent = False, self.away
            self.waiting.clear()
            for stage in self.stages:
                spoil(stage)
            return StagesLost("the test took them away", self.error)
        if not self.waiting:
            return None
        item, result = self.waiting.popleft()
        return self._run(item) if result is None else result

    def _loses(self) -> bool:
        self.events += 1
        if self.events - 1 in self.lose:
            self.lost = True
        return self.lost

    def _run(self, item: StageItem) -> StepResult:
        """By bytes, as between machines."""
        if item.number in self.fail:
            return StepResult(item.number, None, ValueError("broken"))
        values: dict[str, Any] = {BATCH: np.frombuffer(encode_item(item, self.histories), np.uint8)}
        self.sizes.append(values[BATCH].size)
        try:
            for stage in self.stages:
                assert set(stage.inputs) <= set(values)
                made = stage.run(0, values)
                assert tuple(made) == stage.outputs
                values |= made
        except Exception as error:
            return StepResult(item.number, None, error)
        assert values[CHOICES].dtype == np.uint8
        assert len(self.stages) == 1 or values[HIDDEN].dtype == np.float32
        wanted = len(item.batch.logit_rows)
        if item.pooled:
            hidden = decode_hidden(values[CHOICES].data, wanted=wanted, hidden=self.spec.hidden)
            return StepResult(item.number, None, hidden=hidden)
        choices = decode_choices(values[CHOICES].tobytes(), wanted=wanted, vocab_size=self.spec.vocab_size)
        return StepResult(item.number, choices)


def spoil(stage: DecoderStage) -> None:
    """What a worker has that has just been started is whatever lies in its memory."""
    stage._histories = KnownHistories(stage.setup.sequences, stage.executor.spec.vocab_size)
    for number in range(stage.cache.blocks):
        for piece in stage.cache.block(number):
            piece[:] = np.random.default_rng(number).integers(0, 100, piece.shape)
