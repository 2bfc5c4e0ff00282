"""Stages in this process: all layers in one place, which is the ordinary engine, or behind each other in threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from queue import Empty, SimpleQueue

import numpy as np

from cutset.engine.decoder_stage import DecoderStage, Floats, executor_layers
from cutset.engine.sampler import Choice
from cutset.engine.stage_item import StageItem, StageSetup
from cutset.engine.step_pipeline import StagesLost, StepPipeline, StepResult
from cutset.errors import ConfigError
from cutset.models.files.adapter import LoraAdapter
from cutset.models.run.executor import Executor, KVCache, LoadedAdapter, StageExecutor
from cutset.models.spec import DecoderSpec

__all__ = ["LocalPipeline"]

PATIENCE = 0.1  # seconds in which `receive` waits

# What a stage makes of an item: hidden states, choices of the last one, or an error; nothing before the first.
Made = Floats | list[Choice | None] | BaseException | None


class LocalPipeline(StepPipeline):
    """Executors of ranges of layers that follow each other, or one of all layers. No item becomes bytes.

    One step at a time runs in the caller's thread, within `receive`. With more, each stage has a thread of its own, and
    should have a native.Pool of its own: the caller closes the pipeline to end them.
    """

    def __init__(self, executors: Sequence[Executor | StageExecutor], *, depth: int | None = None) -> None:
        self._executors = list(executors)
        ends = [0, *(executor_layers(one).stop for one in executors)]
        if any(executor_layers(one).start != end for one, end in zip(executors, ends, strict=False)) or (
            ends[-1] != executors[0].spec.layers
        ):
            raise ConfigError("Stages must have all layers between them, in order.")
        self._depth = len(self._executors) if depth is None else depth
        self._stages: list[DecoderStage] = []
        self._sent: deque[StageItem] = deque()
        self._adapters: list[tuple[LoraAdapter, bool]] = []  # those that were there before the stages
        self._inputs: list[SimpleQueue[tuple[StageItem, Made] | None]] = []
        self._results: SimpleQueue[StepResult] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    @property
    def spec(self) -> DecoderSpec:
        """The whole decoder."""
        return self._executors[0].spec

    @property
    def depth(self) -> int:
        """How many items may be on their way: as many as there are stages, unless it was given."""
        return self._depth

    @property
    def cache(self) -> KVCache | None:
        """The cache of all layers, which nobody uses between two steps; None where there are several, or threads."""
        return self._stages[0].cache if len(self._stages) == 1 and self._depth == 1 else None

    def open(self, setup: StageSetup) -> None:
        """Makes the caches, and starts the threads."""
        self._stages = [DecoderStage(one, setup) for one in self._executors]
        for adapter, in_bytes in self._adapters:
            self.load_adapter(adapter, in_bytes=in_bytes)
        if self._depth == 1:
            return
        self._inputs = [SimpleQueue() for _ in self._stages]
        for number in range(len(self._stages)):
            thread = threading.Thread(target=self._serve, args=(number,), name=f"cutset-stage-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def load_adapter(self, adapter: LoraAdapter, *, in_bytes: bool = False) -> LoadedAdapter:
        """See StepPipeline; one that is open takes further ones."""
        if not self._stages:
            self._adapters.append((adapter, in_bytes))
        for stage in self._stages:
            stage.load_adapter(adapter, in_bytes=in_bytes)
        return LoadedAdapter(adapter.name, adapter.digest, None)

    def send(self, item: StageItem) -> None:
        """See StepPipeline."""
        if self._threads:
            self._inputs[0].put((item, None))
        else:
            self._sent.append(item)

    def receive(self, *, wait: bool) -> StepResult | StagesLost | None:
        """See StepPipeline."""
        if self._threads:
            try:
                return self._results.get(wait, PATIENCE)
            except Empty:
                return None
        if not self._sent:
            return None
        item = self._sent.popleft()
        if len(self._stages) == 1:
            [stage] = self._stages
            return _result(item, _made(stage, item, None))
        made: Made = None
        for stage in self._stages:
            made = _made(stage, item, made)
        return _result(item, made)

    def close(self) -> None:
        """Ends the threads after what they are at. May be called twice."""
        for thread, queue in zip(self._threads, self._inputs, strict=True):
            queue.put(None)
            thread.join()
        self._threads, self._inputs = [], []

    def _serve(self, number: int) -> None:
        stage, inputs = self._stages[number], self._inputs[number]
        outputs = None if stage.last else self._inputs[number + 1]
        while (passed := inputs.get()) is not None:
            item, made = passed[0], _made(stage, *passed)
            if outputs is None:
                self._results.put(_result(item, made))
            else:
                outputs.put((item, made))


def _made(stage: DecoderStage, item: StageItem, before: Made) -> Made:
    if isinstance(before, BaseException):
        return before
    try:
        found = stage.forward(item, before if isinstance(before, np.ndarray) else None)
        return stage.choose(item, found) if stage.last and not item.pooled else found
    except BaseException as error:  # the engine raises what isn't an Exception
        return error


def _result(item: StageItem, made: Made) -> StepResult:
    if isinstance(made, BaseException):
        return StepResult(item.number, None, made)
    if isinstance(made, np.ndarray):
        return StepResult(item.number, None, hidden=made)
    return StepResult(item.number, made)
