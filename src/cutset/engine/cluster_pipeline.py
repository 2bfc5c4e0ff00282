"""An engine's stages at workers: items go to the first one, hidden states from worker to worker, tokens come back."""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from cutset.cluster.coordinator.coordinator import Coordinator
from cutset.cluster.coordinator.feeding import Inbox
from cutset.cluster.coordinator.reach import REFUSED
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.item_result import ItemResult, StateLost
from cutset.cluster.messages import Report
from cutset.engine.decoder_stage import CHOICES
from cutset.engine.stage_blocks import BlocksItem, BlocksResult, decode_found, encode_blocks
from cutset.engine.stage_divider import StageDivider
from cutset.engine.stage_graph import StageLimits, cache_bytes
from cutset.engine.stage_item import StageItem, StageSetup, encode_item
from cutset.engine.stage_planning import StagePlanning
from cutset.engine.stage_result import decode_choices, decode_hidden
from cutset.engine.stage_runtime import error_of
from cutset.engine.stage_settings import StageWorkers
from cutset.engine.stage_watch import Share, StagesReading, StageWatch
from cutset.engine.step_pipeline import StagesLost, StepPipeline, StepResult
from cutset.engine.token_history import SentHistories
from cutset.errors import CutsetError, EngineError, FrameError, LinkError
from cutset.models.files.adapter import LoraAdapter
from cutset.models.files.integer import Progress
from cutset.models.files.source import ModelSource
from cutset.models.run.executor import LoadedAdapter
from cutset.models.spec import DecoderSpec
from cutset.partition.plan import Plan, StagePlan

__all__ = ["ClusterPipeline"]

WAIT = 0.05  # seconds that `receive` waits
BEAT = 0.5  # seconds between two questions whether a worker is there, beside its own heartbeats
IDLE = 0.5  # seconds without a call of `receive`, after which nobody waits for an answer


class ClusterPipeline(StepPipeline):
    """Runs items on the stages of workers. It holds no weights; workers that lack theirs get them from `source`.

    `planning` says which stages there are. Raises CutsetError from `open`, as that does.
    """

    def __init__(
        self,
        source: ModelSource,
        workers: StageWorkers,
        limits: StageLimits,
        *,
        backend: str = "native",
        dtype: str = "float32",
        divider: StageDivider | None = None,
        observe: Callable[[Report, Plan, float], None] | None = None,
        progress: Progress | None = None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.workers = workers
        self.planning = StagePlanning(
            source, workers, limits, backend=backend, dtype=dtype, divider=divider, progress=progress, log=log
        )
        self.failovers = 0  # how often the stages were lost
        self.watch = StageWatch()
        # Each is called with every party's report, its plan, and the seconds of its hop; not by the engine's thread.
        self.observers: list[Callable[[Report, Plan, float], None]] = [self.watch.report]
        if observe is not None:
            self.observers.append(observe)
        self._progress, self._log = progress, log
        self._setup = StageSetup(1, 1)
        self._histories = SentHistories(1)  # that the last stage has
        self._coordinator: Coordinator | None = None
        self._inbox: Inbox | None = None
        self._lost = 0  # losses of this coordinator that the engine knows of
        # Number of each item on its way, the rows or blocks that are wanted, and what these are.
        self._sent: deque[tuple[int, int, Literal["choices", "hidden", "blocks"]]] = deque()
        self._asked = time.monotonic()  # when `receive` was last called
        self._since = self._asked  # since when its caller waits in vain

    @property
    def spec(self) -> DecoderSpec:
        return self.planning.spec

    @property
    def depth(self) -> int:
        plan = self.plan
        return 0 if plan is None else self.planning.depth(plan)

    @property
    def groups(self) -> int:
        plan = self.plan
        return 0 if plan is None else self.planning.groups(plan)

    @property
    def plan(self) -> Plan | None:
        """The plan in use; None while there is none."""
        return None if self._coordinator is None else self._coordinator.plan

    def layers_of(self, stage: StagePlan) -> str:
        """The layers of a plan's stage, as `layers 0-11`."""
        layers = self.planning.layers(stage)
        return f"layers {layers.start}-{layers.stop - 1}"

    def reading(self) -> StagesReading:
        """How the stages stand now; from any thread."""
        coordinator, plan, on_their_way = self._coordinator, self.plan, len(self._sent)
        if coordinator is None:
            return StagesReading(0, "the stages are closed", [], [], 0, 0, self.failovers)
        shares: dict[str, Share] = {}
        for stage in plan.stages if plan is not None else ():
            layers = self.planning.layers(stage)
            kv = cache_bytes(self.spec, self._setup, layers, self.planning.dtype)
            shares[stage.worker] = Share(layers, self.planning.model.graph.weight_bytes(stage.nodes), kv)
        number, why = next(((n, why) for n, one, why in reversed(coordinator.plans) if one is plan), (0, ""))
        why = why or self.planning.why or "stages get ready"
        stages = self.watch.stages(coordinator.remotes, shares, self.workers.spares)
        hops = [] if plan is None else self.watch.hops(plan, coordinator.links)
        return StagesReading(number, why, stages, hops, on_their_way, self.depth, self.failovers)

    def load_adapter(self, adapter: LoraAdapter, *, in_bytes: bool = False) -> LoadedAdapter:
        """See StepPipeline: its parts are weights of their layers."""
        return self.planning.load_adapter(adapter, in_bytes=in_bytes)

    def open(self, setup: StageSetup) -> None:
        """Makes the graph, reaches the workers, and waits until all of them have their stages."""
        self._setup, self._histories = self.planning.open(setup), SentHistories(setup.sequences)
        self._begin()
        try:
            self._wait_for_stages()
        except BaseException:
            self.close()
            raise

    def send(self, item: StageItem) -> None:
        assert self._inbox is not None, "the pipeline isn't open"
        self._inbox.put(np.frombuffer(encode_item(item, self._histories), np.uint8), self._lost)
        self._sent.append((item.number, len(item.batch.logit_rows), "hidden" if item.pooled else "choices"))

    @property
    def keeps_blocks(self) -> bool:
        return bool(self._setup.prefixes)

    def send_blocks(self, item: BlocksItem) -> None:
        assert self._inbox is not None, "the pipeline isn't open"
        self._inbox.put(np.frombuffer(encode_blocks(item), np.uint8), self._lost)
        self._sent.append((item.number, len(item.fill), "blocks"))

    def receive(self, *, wait: bool) -> StepResult | BlocksResult | StagesLost | None:
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

    def _result(self, came: ItemResult) -> StepResult | BlocksResult | None:
        if came.dropped or not self._sent:
            return None
        number, wanted, what = self._sent.popleft()
        try:
            data = came.outputs[CHOICES]
            if what == "blocks":
                return BlocksResult(number, *decode_found(data, wanted))
            if (why := error_of(data)) is not None:
                return StepResult(number, None, EngineError(why))
            if what == "hidden":
                found = decode_hidden(data.data, wanted=wanted, hidden=self.spec.hidden)
                return StepResult(number, None, hidden=found)
            return StepResult(number, decode_choices(data.data, wanted=wanted, vocab_size=self.spec.vocab_size))
        except FrameError as error:
            return StepResult(number, None, EngineError(f"the last stage gave what can't be used: {error}"))

    def _begin(self) -> None:
        workers, model = self.workers, self.planning.model
        self._inbox, self._lost = Inbox(model.input), 0
        self._coordinator = Coordinator(
            model,
            workers.all,
            self._plan,
            [self._inbox],
            Options(
                deltas=False,
                in_flight=self.planning.most,
                stateful=True,
                direct=True,
                patience=workers.patience,
                silence=workers.silence,
                beat=BEAT,
                gather=0.0,  # the planner says for whom it waits
            ),
            keys=workers.keys,
            rendezvous=workers.rendezvous,
            handshake=self.planning.handshake,
            locate=workers.locate,
            observe=self._report,
            paces=workers.paces,
            log=self._log,
        )

    def _report(self, report: Report, plan: Plan, seconds: float) -> None:
        for observe in self.observers:
            observe(report, plan, seconds)

    def _plan(self, alive: Sequence[str], why: str) -> Plan:
        remotes = {} if self._coordinator is None else self._coordinator.remotes  # it is being made
        return self.planning.plan(alive, {name: one.card for name, one in remotes.items() if one.card is not None})

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
                if not remote.up and waited > max(most, self.workers.joining if remote.joins else 0.0):
                    raise LinkError(f"the stage {remote.name} can't be used: {remote.why}")
            if not checked and all(remote.up for remote in remotes):
                checked = True
                for remote in remotes:
                    if remote.card is not None:
                        self.planning.check_card(remote.name, remote.card)
                self.planning.begun = True
                self._plan([remote.name for remote in remotes], "the start")  # what never fits is said at once
            if self._progress is not None and checked:
                sent, total = coordinator.weights_sent
                if total:
                    self._progress("sending weights to stages", sent, total)
