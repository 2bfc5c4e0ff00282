"""An engine's stages at workers: items go to the first one, hidden states from worker to worker, tokens come back."""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replace_node
from itertools import permutations
from typing import Any

import numpy as np
from msgspec.structs import replace

from cutset.cluster.coordinator.coordinator import Coordinator
from cutset.cluster.coordinator.feeding import Inbox
from cutset.cluster.coordinator.plans import NoPlan
from cutset.cluster.coordinator.reach import REFUSED, reach
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.item_result import ItemResult, StateLost
from cutset.cluster.messages import Report
from cutset.cluster.model import Model
from cutset.engine.decoder_stage import CHOICES
from cutset.engine.stage_graph import StageLimits, StageModel, decoder_graph, stage_model
from cutset.engine.stage_item import StageItem, StageSetup, decode_choices, encode_item
from cutset.engine.stage_runtime import error_of, software_of
from cutset.engine.stage_settings import Addresses
from cutset.engine.step_pipeline import StagesLost, StepPipeline, StepResult
from cutset.errors import CutsetError, EngineError, FrameError, LinkError
from cutset.kernels import native
from cutset.link.keys import Keys
from cutset.models.files.integer import Progress
from cutset.models.files.source import ModelSource
from cutset.models.spec import DecoderSpec
from cutset.partition.hop import Hop
from cutset.partition.plan import COORDINATOR, Plan, StagePlan
from cutset.partition.schedulers.by_weight import by_weight

__all__ = ["ClusterPipeline", "StageWorkers"]

WAIT = 0.05  # seconds that `receive` waits
BEAT = 0.5  # seconds between two questions whether a worker is there, beside its own heartbeats
IDLE = 0.5  # seconds without a call of `receive`, after which nobody waits for an answer


@dataclass(frozen=True)
class StageWorkers:
    """Who runs the stages, in this order, and who stands in for one that is gone."""

    stages: Addresses
    spares: Addresses = field(default_factory=dict)
    keys: Keys | None = None  # this side's, with tcp
    patience: float = 20.0  # seconds without a plan, after which requests end
    silence: float = 2.4  # seconds without a heartbeat, after which a worker counts as gone: soon known, within 3 s
    starting: float = 10.0  # seconds in which all stages must be there at the start
    hop: Hop | None = None  # emulated between every two parties

    @property
    def all(self) -> dict[str, tuple[str, bytes | None]]:
        """Stages and spares."""
        return {**self.stages, **self.spares}


class ClusterPipeline(StepPipeline):
    """Runs items on the stages of workers. It holds no weights; workers that lack theirs get them from `source`.

    Raises CutsetError from `open`: a worker that can't be reached or is of another version, a model that doesn't fit.
    """

    def __init__(
        self,
        source: ModelSource,
        workers: StageWorkers,
        limits: StageLimits,
        *,
        backend: str = "native",
        dtype: str = "float32",
        observe: Callable[[Report, Plan, float], None] | None = None,
        progress: Progress | None = None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.source, self.workers, self.limits = source, workers, limits
        self.backend, self.dtype = backend, dtype
        self.failovers = 0  # how often the stages were lost
        self._observe, self._progress, self._log = observe, progress, log
        self._model: Model | None = None
        self._coordinator: Coordinator | None = None
        self._inbox: Inbox | None = None
        self._lost = 0  # losses of this coordinator that the engine knows of
        self._sent: deque[tuple[int, int]] = deque()  # number and wanted rows of the items on their way
        self._begun = False  # all stages were there once
        self._asked = time.monotonic()  # when `receive` was last called
        self._since = self._asked  # since when its caller waits in vain

    @property
    def spec(self) -> DecoderSpec:
        return self.source.spec

    @property
    def depth(self) -> int:
        plan = self.plan
        return 0 if plan is None else self._most(len(plan.stages))

    @property
    def groups(self) -> int:
        plan = self.plan
        return 0 if plan is None else len(plan.stages)

    @property
    def plan(self) -> Plan | None:
        """The plan in use; None while there is none."""
        return None if self._coordinator is None else self._coordinator.plan

    def layers_of(self, stage: StagePlan) -> str:
        """The layers of a plan's stage, as `layers 0-11`."""
        assert self._model is not None
        nodes = [self._model.graph.nodes[i] for i in stage.nodes]
        return f"layers {nodes[0].args[0]}-{int(str(nodes[-1].args[1])) - 1}"

    def fitting(self, setup: StageSetup, most: int = 0) -> int:
        """How many blocks of the cache, up to those of `setup`, the stages have memory for; up to `most`, if that is
        more, where all of them say how much they have. Raises CutsetError."""
        workers = self.workers
        cards = reach(workers.stages, keys=workers.keys, seconds=workers.starting)
        for name, card in cards.items():
            self._check_card(name, card.software)
        memory = {name: float(card.memory) for name, card in cards.items()}
        if not any(memory.values()):
            return setup.blocks
        if all(memory.values()):
            setup = replace(setup, blocks=max(setup.blocks, most))
        one = decoder_graph(self.source, self._described(replace(setup, blocks=1)), self.limits).graph
        two = decoder_graph(self.source, self._described(replace(setup, blocks=2)), self.limits).graph

        def fits(blocks: int) -> bool:
            states = (a.state + (blocks - 1) * (b.state - a.state) for a, b in zip(one.nodes, two.nodes, strict=True))
            nodes = tuple(replace_node(node, state=state) for node, state in zip(one.nodes, states, strict=True))
            graph = replace_node(one, nodes=nodes)
            return by_weight(graph, list(memory), memory, self._most(len(memory))) is not None

        least, most = 1, setup.blocks + 1  # the first fits, or none does; the second doesn't, or needn't
        while most - least > max(least // 64, 1):
            middle = (least + most) // 2
            least, most = (middle, most) if fits(middle) else (least, middle)
        return least

    def _described(self, setup: StageSetup) -> StageModel:
        isa = native.isa() if native.available() else "numpy"
        return stage_model(self.source, software_of(isa), self.backend, self.dtype, setup)

    def open(self, setup: StageSetup) -> None:
        """Makes the graph, reaches the workers, and waits until all of them have their stages."""
        self._model = decoder_graph(self.source, self._described(setup), self.limits)
        names = list(self._model.graph.weights)
        for done, name in enumerate(names):
            self._model.weight_digest(name)
            if self._progress is not None:
                self._progress("hashing weights", done + 1, len(names))
        self.source.forget()
        self._begin()
        try:
            self._wait_for_stages()
        except BaseException:
            self.close()
            raise

    def send(self, item: StageItem) -> None:
        assert self._inbox is not None, "the pipeline isn't open"
        self._inbox.put(np.frombuffer(encode_item(item), np.uint8), self._lost)
        self._sent.append((item.number, len(item.batch.logit_rows)))

    def receive(self, *, wait: bool) -> StepResult | StagesLost | None:
        coordinator, asked, self._asked = self._coordinator, self._asked, time.monotonic()
        if self._asked - asked > IDLE:
            self._since = self._asked
        if coordinator is None:
            raise EngineError("the stages are closed")
        try:
            came = coordinator.results.get(timeout=WAIT) if wait else coordinator.results.get_nowait()
        except queue.Empty:
            return None
        if isinstance(came, ItemResult):
            coordinator.took()
            self._since = self._asked
            return self._result(came)
        self._sent.clear()
        self.failovers += 1
        if isinstance(came, StateLost):
            self._lost = came.count
            return StagesLost(came.why)
        error = came or LinkError("the stages have ended")
        coordinator.close()
        self._begin()  # whoever waits may find the workers back
        if time.monotonic() - self._since < self.workers.patience:  # it asked in the middle of that time
            return StagesLost(str(error))
        self._since = time.monotonic()
        return StagesLost(str(error), EngineError(str(error)))

    def close(self) -> None:
        """Lets go of the workers, which wait for the next coordinator. A second call does nothing."""
        coordinator, self._coordinator = self._coordinator, None
        if coordinator is not None:
            coordinator.close()

    def _result(self, came: ItemResult) -> StepResult | None:
        if came.dropped or not self._sent:
            return None
        number, wanted = self._sent.popleft()
        try:
            data = came.outputs[CHOICES]
            if (why := error_of(data)) is not None:
                return StepResult(number, None, EngineError(why))
            return StepResult(number, decode_choices(data.data, wanted=wanted, vocab_size=self.spec.vocab_size))
        except FrameError as error:
            return StepResult(number, None, EngineError(f"the last stage gave what can't be used: {error}"))

    def _most(self, stages: int) -> int:
        """Items on their way that keep so many stages busy."""
        return 1 if stages == 1 else stages + 1

    def _begin(self) -> None:
        assert self._model is not None
        workers = self.workers
        self._inbox, self._lost = Inbox(self._model.input), 0
        paces = dict.fromkeys(permutations([COORDINATOR, *workers.all], 2), workers.hop) if workers.hop else None
        self._coordinator = Coordinator(
            self._model,
            workers.all,
            self._planned,
            [self._inbox],
            Options(
                deltas=False,
                in_flight=self._most(len(workers.stages)),
                stateful=True,
                patience=workers.patience,
                silence=workers.silence,
                beat=BEAT,
                gather=0.0,  # the planner says for whom it waits
            ),
            keys=workers.keys,
            paces=paces,
            observe=self._observe,
            log=self._log,
        )

    def _planned(self, alive: Sequence[str], why: str) -> Plan:
        """Even shares of the weights for the stages, spares in the places of those that are gone. Raises NoPlan."""
        assert self._model is not None
        graph, named = self._model.graph, list(self.workers.stages)
        absent = [name for name in named if name not in alive]
        if absent and not self._begun:
            raise NoPlan(f"{', '.join(absent)} can't be reached")
        spares = [name for name in self.workers.spares if name in alive]
        chosen = [name if name in alive else spares.pop(0) if spares else "" for name in named]
        memory = self._memory()
        while True:
            using = [name for name in chosen if name]
            stages = by_weight(graph, using, memory, self._most(len(named))) if using else None
            if stages is not None:
                return Plan(self._model.digest, stages, scheduler="by weight")
            if not spares:
                raise NoPlan(self._missing(using, memory))
            chosen.append(spares.pop(0))

    def _memory(self) -> dict[str, float]:
        """Bytes that each worker may use; 0 for no limit."""
        coordinator = self._coordinator
        if coordinator is None:  # it is being made
            return {}
        return {name: float(remote.card.memory) for name, remote in coordinator.remotes.items() if remote.card}

    def _missing(self, using: Sequence[str], memory: Mapping[str, float]) -> str:
        assert self._model is not None
        graph = self._model.graph
        state = sum(node.state for node in graph.nodes)
        need = (graph.weight_bytes(range(len(graph.nodes))) + state) / 2**20
        have = sum(memory.get(name, 0.0) for name in using) / 2**20
        there = f"the {len(using)} that are there may use {have:,.0f} MiB" if using else "none is there"
        return (
            f"the stages need about {need:,.0f} MiB for weights and cache, and {there}: give another --stages or "
            "--spares, more --memory, or less --cache-mib"
        )

    def _wait_for_stages(self) -> None:
        """Until items may be sent. Raises the reason why that won't be."""
        coordinator, started, checked = self._coordinator, time.monotonic(), False
        assert coordinator is not None
        remotes = [coordinator.remotes[name] for name in self.workers.stages]
        while coordinator.plan is None:
            try:
                came: Any = coordinator.results.get(timeout=WAIT)
            except queue.Empty:
                pass
            else:
                raise came if isinstance(came, CutsetError) else LinkError("the stages ended before they began")
            waited = time.monotonic() - started
            for remote in () if checked else remotes:
                most = REFUSED if remote.refused else self.workers.starting
                if not remote.up and waited > most:
                    raise LinkError(f"the stage {remote.name} can't be used: {remote.why}")
            if not checked and all(remote.up for remote in remotes):
                checked = True
                for remote in remotes:
                    self._check_card(remote.name, remote.card.software if remote.card else "")
                self._begun = True
                self._planned([remote.name for remote in remotes], "the start")  # what never fits is said at once
            if self._progress is not None and checked:
                sent, total = coordinator.weights_sent
                if total:
                    self._progress("sending weights to stages", sent, total)

    def _check_card(self, name: str, theirs: str) -> None:
        isa = native.isa() if native.available() else "numpy"
        ours = software_of(isa)
        if theirs == ours:
            return
        if ", stages, " not in theirs:
            raise LinkError(
                f"{name} is no stage of language models but {theirs[:80] or 'unknown'}: start `cutset stage`"
            )
        raise LinkError(
            f"{name} is {theirs[:100]}, this side {ours}: tokens may differ. Install the same version on both; for the "
            f"instruction set set CUTSET_ISA on all of them to one that they share"
        )
