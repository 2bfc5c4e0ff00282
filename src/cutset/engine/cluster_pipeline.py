"""An engine's stages at workers: items go to the first one, hidden states from worker to worker, tokens come back."""

from __future__ import annotations

import hashlib
import json
import math
import queue
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as changed
from typing import Any, Literal

import numpy as np
from msgspec.structs import replace

from cutset.cluster.coordinator.coordinator import Coordinator
from cutset.cluster.coordinator.feeding import Inbox
from cutset.cluster.coordinator.plans import NoPlan
from cutset.cluster.coordinator.reach import REFUSED, reach
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.item_result import ItemResult, StateLost
from cutset.cluster.messages import HANDSHAKE, Card, Report
from cutset.cluster.model import Model
from cutset.engine.decoder_stage import CHOICES
from cutset.engine.stage_adapters import ADAPTER, SentAdapters
from cutset.engine.stage_blocks import BlocksItem, BlocksResult, decode_found, encode_blocks
from cutset.engine.stage_divider import StageDivider
from cutset.engine.stage_graph import (
    DESCRIPTION,
    StageLimits,
    StageModel,
    StageWeights,
    cache_bytes,
    decoder_graph,
    segments_of,
    stage_model,
    uncut,
)
from cutset.engine.stage_item import (
    StageItem,
    StageSetup,
    decode_choices,
    decode_hidden,
    encode_item,
    encode_setup,
)
from cutset.engine.stage_match import check_card, common_isa, cost_of_isa, isas_of
from cutset.engine.stage_runtime import error_of, software_of
from cutset.engine.stage_settings import Addresses
from cutset.engine.stage_watch import Share, StagesReading, StageWatch
from cutset.engine.step_pipeline import StagesLost, StepPipeline, StepResult
from cutset.engine.token_history import SentHistories
from cutset.errors import ConfigError, CutsetError, EngineError, FrameError, LinkError
from cutset.link.keys import Keys
from cutset.link.rendezvous import Rendezvous
from cutset.models.files.adapter import LoraAdapter
from cutset.models.files.fingerprint import fingerprint
from cutset.models.files.integer import Progress, channel_scales
from cutset.models.files.source import ModelSource
from cutset.models.run.executor import LoadedAdapter
from cutset.models.spec import DecoderSpec
from cutset.partition.hop import Hop
from cutset.partition.memory import fits, hop_memory, order_bytes
from cutset.partition.plan import Plan, StagePlan
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
    paces: Mapping[tuple[str, str], Hop] = field(default_factory=dict)  # hops that are emulated, by their ends' names
    rendezvous: Rendezvous | None = None  # where those dial in whose address is join://NAME
    joining: float = 60.0  # seconds in which these must be there at the start

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
        divider: StageDivider | None = None,
        observe: Callable[[Report, Plan, float], None] | None = None,
        progress: Progress | None = None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`divider` says which worker gets which layers; without it each gets as many bytes of weights."""
        self.source, self.workers, self.limits = source, workers, limits
        self.divider = divider
        self._groups: dict[tuple[StagePlan, ...], int] = {}  # of sequences that decode, by the stages of a plan
        self.backend, self.dtype = backend, dtype
        self.failovers = 0  # how often the stages were lost
        self.watch = StageWatch()
        # Each is called with every party's report, its plan, and the seconds of its hop; not by the engine's thread.
        self.observers: list[Callable[[Report, Plan, float], None]] = [self.watch.report]
        if observe is not None:
            self.observers.append(observe)
        self._progress, self._log = progress, log
        self._setup = StageSetup(1, 1)
        self._why = ""  # there is no plan
        self._adapters = SentAdapters(source.spec, segments_of(source.spec))
        self._histories = SentHistories(1)  # that the last stage has
        self._isa = ""  # at which all stages run; of the first survey, since other bits would be other tokens
        self._cards: dict[str, Card] = {}
        self._unfit: dict[str, str] = {}  # workers that came later and can't be used, and why
        self._handshake = changed(HANDSHAKE, model=fingerprint(source.tensors))
        self._model: Model | None = None
        self._coordinator: Coordinator | None = None
        self._inbox: Inbox | None = None
        self._lost = 0  # losses of this coordinator that the engine knows of
        # Number of each item on its way, the rows or blocks that are wanted, and what these are.
        self._sent: deque[tuple[int, int, Literal["choices", "hidden", "blocks"]]] = deque()
        self._begun = False  # all stages were there once
        self._asked = time.monotonic()  # when `receive` was last called
        self._since = self._asked  # since when its caller waits in vain

    @property
    def spec(self) -> DecoderSpec:
        return self.source.spec

    @property
    def depth(self) -> int:
        plan = self.plan
        return 0 if plan is None else min(self._most(len(self.workers.stages)), self._most(self.groups))

    @property
    def groups(self) -> int:
        plan = self.plan
        return 0 if plan is None else self._groups.get(plan.stages) or len(plan.stages)

    @property
    def plan(self) -> Plan | None:
        """The plan in use; None while there is none."""
        return None if self._coordinator is None else self._coordinator.plan

    def layers_of(self, stage: StagePlan) -> str:
        """The layers of a plan's stage, as `layers 0-11`."""
        layers = self._layers(stage)
        return f"layers {layers.start}-{layers.stop - 1}"

    def _layers(self, stage: StagePlan) -> range:
        assert self._model is not None
        nodes = [self._model.graph.nodes[i] for i in stage.nodes]
        return range(int(str(nodes[0].args[0])), int(str(nodes[-1].args[1])))

    def reading(self) -> StagesReading:
        """How the stages stand now; from any thread."""
        coordinator, plan, on_their_way = self._coordinator, self.plan, len(self._sent)
        if coordinator is None or self._model is None:
            return StagesReading(0, "the stages are closed", [], [], 0, 0, self.failovers)
        shares: dict[str, Share] = {}
        for stage in plan.stages if plan is not None else ():
            layers = self._layers(stage)
            kv = cache_bytes(self.spec, self._setup, layers, self.dtype)
            shares[stage.worker] = Share(layers, self._model.graph.weight_bytes(stage.nodes), kv)
        number, why = next(((n, why) for n, one, why in reversed(coordinator.plans) if one is plan), (0, ""))
        why = why or self._why or "stages get ready"
        stages = self.watch.stages(coordinator.remotes, shares, self.workers.spares)
        hops = [] if plan is None else self.watch.hops(plan, coordinator.links)
        return StagesReading(number, why, stages, hops, on_their_way, self.depth, self.failovers)

    def fitting(self, setup: StageSetup, most: int = 0) -> int:
        """How many blocks of the cache, up to those of `setup`, the stages have memory for; up to `most`, if that is
        more, where all of them say how much they have. Raises CutsetError."""
        rooms, cards = self._rooms(setup), self._survey(setup)
        if not any(map(math.isfinite, rooms)):
            return setup.blocks
        if all(cards[name].memory for name in self.workers.stages):
            setup = replace(setup, blocks=max(setup.blocks, most))
        one, two = (self._graph(self._described(replace(setup, blocks=blocks))).graph for blocks in (1, 2))
        sizes, shut = np.array([cut.nbytes for cut in one.cuts]), uncut(self.spec)
        hops = hop_memory(sizes[:, None], sizes[None, :], self._most(len(rooms)))
        least_needs, ends = order_bytes(one), [bool(shut.intersection(cut.values)) for cut in one.cuts]
        with np.errstate(invalid="ignore"):  # infinite where there is no stage
            block = np.nan_to_num(order_bytes(two) - least_needs, nan=0.0)

        def fit(blocks: int) -> bool:
            return fits(least_needs + (blocks - 1) * block + hops, rooms, np.flatnonzero(ends).tolist())

        least, most = 1, setup.blocks + 1  # the first fits, or none does; the second doesn't, or needn't
        while most - least > max(least // 64, 1):
            middle = (least + most) // 2
            least, most = (middle, most) if fit(middle) else (least, middle)
        return least

    def _rooms(self, setup: StageSetup) -> list[float]:
        """Bytes that each stage may use. Raises CutsetError for one that can't be used."""
        cards, names = self._survey(setup), self.workers.stages
        if self.divider is not None:
            self._measure(setup)
            return [self.divider.room(name) for name in names]
        return [float(cards[name].memory) or math.inf for name in names]

    def _survey(self, setup: StageSetup) -> dict[str, Card]:
        """The cards of the stages, and of the spares that are there. Settles at which instruction set all of them run.

        Raises LinkError for one that can't be reached, or that doesn't fit to this side or to the others.
        """
        if self._cards:
            return self._cards
        workers, progress = self.workers, self._progress

        def there(found: int, wanted: int) -> None:
            if progress is not None and workers.rendezvous is not None:
                progress(f"waiting for stages at {workers.rendezvous.address}", found, wanted)

        cards = reach(
            workers.all,
            keys=workers.keys,
            rendezvous=workers.rendezvous,
            handshake=self._handshake,
            seconds=workers.starting,
            joining=workers.joining,
            spares=workers.spares,
            there=there,
        )
        for name, card in cards.items():
            check_card(name, card, software_of(isas_of(card)[-1]), dtype=self.dtype, kv_dtype=setup.kv_dtype)
        self._isa = common_isa(cards, self.backend)
        if line := cost_of_isa(cards, self._isa):
            self._log(line)
        self._cards = cards
        return cards

    def _measure(self, setup: StageSetup) -> None:
        assert self.divider is not None
        small = self._described(replace(setup, blocks=1, masked=()))
        graph = self._graph(small).graph
        self.divider.measure(small, graph, self.source.tensors, self._check_card)

    def describe(self, setup: StageSetup) -> Model:
        """The graph for a cache of that size; with a divider, measures what plans for it depend on. Raises CutsetError:
        a worker that can't be used, a model that doesn't fit."""
        self._survey(setup)
        model = self._graph(self._described(setup))
        if self.divider is not None:
            self._measure(setup)
            context = setup.blocks * setup.block_size // min(self.limits.sequences, setup.blocks)
            most = self._most(len(self.workers.stages))
            self.divider.prepare(model.graph, model.digest, self.spec, context, most, self._check_card)
        return model

    def _described(self, setup: StageSetup) -> StageModel:
        software = software_of(self._isa)
        return stage_model(self.source, software, self.backend, self.dtype, setup, self._adapters.known)

    def _graph(self, described: StageModel) -> Model:
        return decoder_graph(self.source, described, self.limits, self._adapters)

    def load_adapter(self, adapter: LoraAdapter, *, in_bytes: bool = False) -> LoadedAdapter:
        """See StepPipeline: its parts are weights of their layers."""
        if self._model is not None:
            raise EngineError("an adapter must be there before the stages")
        # Stages haven't the scales that an integer checkpoint moved between channels.
        scales = channel_scales(self.spec, self.source.tensors)
        fitted = adapter if scales is None else scales.adapter(adapter)
        self._adapters.add(fitted, in_bytes=in_bytes)
        return LoadedAdapter(self._adapters.known[-1].name, adapter.digest, None)

    def open(self, setup: StageSetup) -> None:
        """Makes the graph, reaches the workers, and waits until all of them have their stages."""
        if not self.spec.state_floats:
            setup = replace(setup, prefixes=bytes(32))  # of the length that it will have
        self._survey(setup)
        described = self._described(setup)
        self._model, self._histories = self.describe(setup), SentHistories(setup.sequences)
        names = [name for name in self._model.graph.weights if name != DESCRIPTION]
        for done, name in enumerate(names):
            self._model.weight_digest(name)
            if self._progress is not None:
                self._progress("hashing weights", done + 1, len(names))
        if setup.prefixes:
            setup = replace(setup, prefixes=self._prefixes(self._model, setup, described))
            assert isinstance(self._model.weights, StageWeights)
            self._model.weights.describe(replace(described, setup=encode_setup(setup)))
        self._setup = setup
        self.source.forget()
        self._begin()
        try:
            self._wait_for_stages()
        except BaseException:
            self.close()
            raise

    def _prefixes(self, model: Model, setup: StageSetup, described: StageModel) -> bytes:
        """What the bytes of a block depend on, as far as it is known here. An adapter is part of a block's digest."""
        names = [name for name in model.graph.weights if name != DESCRIPTION and not name.startswith(ADAPTER)]
        weights = {name: model.weight_digest(name) for name in names}
        computed = [described.architecture, described.normalised, described.tied, described.backend, described.dtype]
        depends = [computed, setup.kv_dtype, setup.block_size, self.limits.context, weights]
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).digest()

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

    def _most(self, stages: int) -> int:
        """Items on their way that keep so many stages busy."""
        return 1 if stages == 1 else stages + 1

    def _begin(self) -> None:
        assert self._model is not None
        workers = self.workers
        self._inbox, self._lost = Inbox(self._model.input), 0
        self._coordinator = Coordinator(
            self._model,
            workers.all,
            self._plan_or_why,
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
            rendezvous=workers.rendezvous,
            handshake=self._handshake,
            observe=self._report,
            paces=workers.paces,
            log=self._log,
        )

    def _report(self, report: Report, plan: Plan, seconds: float) -> None:
        for observe in self.observers:
            observe(report, plan, seconds)

    def _plan_or_why(self, alive: Sequence[str], why: str) -> Plan:
        try:
            plan = self._planned(alive, why)
        except NoPlan as error:
            self._why = str(error)
            raise
        self._why = ""
        return plan

    def _planned(self, alive: Sequence[str], why: str) -> Plan:
        """A plan for the stages, with spares in the places of those that are gone. Raises NoPlan."""
        assert self._model is not None
        named = list(self.workers.stages)
        alive = [name for name in alive if self._fits(name)]
        absent = [name for name in named if name not in alive]
        if absent and not self._begun:
            raise NoPlan(f"{', '.join(absent)} can't be reached")
        spares = [name for name in self.workers.spares if name in alive]
        chosen = [name if name in alive else spares.pop(0) if spares else "" for name in named]
        memory = self._memory()
        while True:
            using = [name for name in chosen if name]
            try:
                return self._divide(using, memory)
            except ConfigError as error:
                if not spares:
                    raise NoPlan(str(error)) from None
            chosen.append(spares.pop(0))

    def _divide(self, using: Sequence[str], memory: Mapping[str, float]) -> Plan:
        """Raises ConfigError with what is missing."""
        assert self._model is not None
        if self.divider is not None and using:
            division = self.divider.divide(using, memory)
            self._groups[division.plan.stages] = division.depth
            return division.plan
        graph, most = self._model.graph, self._most(len(self.workers.stages))
        stages = by_weight(graph, using, memory, most, uncut=uncut(self.spec)) if using else None
        if stages is None:
            raise ConfigError(self._missing(using, memory))
        return Plan(self._model.digest, stages, scheduler="by weight")

    def _fits(self, name: str) -> bool:
        """Whether a worker that is there can be used; it may have come later, or been started anew as another one."""
        remote = None if self._coordinator is None else self._coordinator.remotes[name]
        if remote is None or remote.card is None:
            return True
        try:
            self._check_card(name, remote.card)
        except LinkError as error:
            if self._unfit.get(name) != str(error):
                self._unfit[name] = str(error)
                self._log(str(error))
            return False
        return True

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
                if not remote.up and waited > max(most, self.workers.joining if remote.joins else 0.0):
                    raise LinkError(f"the stage {remote.name} can't be used: {remote.why}")
            if not checked and all(remote.up for remote in remotes):
                checked = True
                for remote in remotes:
                    if remote.card is not None:
                        self._check_card(remote.name, remote.card)
                self._begun = True
                self._planned([remote.name for remote in remotes], "the start")  # what never fits is said at once
            if self._progress is not None and checked:
                sent, total = coordinator.weights_sent
                if total:
                    self._progress("sending weights to stages", sent, total)

    def _check_card(self, name: str, card: Card) -> None:
        check_card(name, card, software_of(self._isa), isa=self._isa)
