"""Which stages an engine's layers are divided into: who is there, what fits, and the graph that plans are made for."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from msgspec.structs import replace

from cutset.cluster.coordinator.plans import NoPlan
from cutset.cluster.coordinator.reach import reach
from cutset.cluster.messages import Card
from cutset.cluster.model import Model
from cutset.engine.stage_adapters import ADAPTER, SentAdapters
from cutset.engine.stage_divider import StageDivider
from cutset.engine.stage_graph import (
    DESCRIPTION,
    StageLimits,
    StageModel,
    StageWeights,
    decoder_graph,
    segments_of,
    stage_model,
    uncut,
)
from cutset.engine.stage_item import StageSetup, encode_setup
from cutset.engine.stage_match import check_card, common_isa, cost_of_isa, isas_of
from cutset.engine.stage_runtime import software_of
from cutset.engine.stage_settings import StageWorkers
from cutset.errors import ConfigError, EngineError, LinkError
from cutset.models.files.adapter import LoraAdapter
from cutset.models.files.fingerprint import fingerprint
from cutset.models.files.integer import Progress, channel_scales
from cutset.models.files.source import ModelSource
from cutset.models.run.executor import LoadedAdapter
from cutset.models.spec import DecoderSpec
from cutset.partition.memory import fits, hop_memory, order_bytes
from cutset.partition.plan import Plan, StagePlan
from cutset.partition.schedulers.by_weight import by_weight

__all__ = ["StagePlanning"]


class StagePlanning:
    """Knows the model and the workers, and answers with plans whenever workers come or go. It sends no items.

    Methods raise CutsetError: a worker that can't be reached or is of another version, a model that doesn't fit.
    """

    def __init__(
        self,
        source: ModelSource,
        workers: StageWorkers,
        limits: StageLimits,
        *,
        backend: str,
        dtype: str,
        divider: StageDivider | None,
        progress: Progress | None,
        log: Callable[[str], None],
    ) -> None:
        """`divider` says which worker gets which layers; without it each gets as many bytes of weights."""
        self.source, self.workers, self.limits = source, workers, limits
        self.divider = divider
        self.backend, self.dtype = backend, dtype
        self.handshake = workers.handshake(fingerprint(source.tensors))
        self.why = ""  # there is no plan
        self.begun = False  # all stages were there once
        self._progress, self._log = progress, log
        self._model: Model | None = None
        self._groups: dict[tuple[StagePlan, ...], int] = {}  # of sequences that decode, by the stages of a plan
        self._adapters = SentAdapters(source.spec, segments_of(source.spec))
        self._isa = ""  # at which all stages run; of the first survey, since other bits would be other tokens
        self._cards: dict[str, Card] = {}
        self._unfit: dict[str, str] = {}  # workers that came later and can't be used, and why

    @property
    def isa(self) -> str:
        """The instruction set at which all stages run; "" before there are any, and where the backend has none."""
        return self._isa

    @property
    def spec(self) -> DecoderSpec:
        """The whole decoder."""
        return self.source.spec

    @property
    def model(self) -> Model:
        """The graph that was opened."""
        assert self._model is not None, "the pipeline isn't open"
        return self._model

    def groups(self, plan: Plan) -> int:
        """Among how many steps the sequences that decode are shared out."""
        return self._groups.get(plan.stages) or len(plan.stages)

    def depth(self, plan: Plan) -> int:
        """How many steps may be on their way."""
        return min(self.most, self.most_of(self.groups(plan)))

    @property
    def most(self) -> int:
        """Steps on their way at most, whatever the plan."""
        return self.most_of(len(self.workers.stages))

    @staticmethod
    def most_of(stages: int) -> int:
        """Items on their way that keep so many stages busy."""
        return 1 if stages == 1 else stages + 1

    def layers(self, stage: StagePlan) -> range:
        """The layers of a plan's stage."""
        nodes = [self.model.graph.nodes[i] for i in stage.nodes]
        return range(int(str(nodes[0].args[0])), int(str(nodes[-1].args[1])))

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
        hops = hop_memory(sizes[:, None], sizes[None, :], self.most_of(len(rooms)))
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
            handshake=self.handshake,
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
        self.divider.measure(small, graph, self.source.tensors, self.check_card)

    def describe(self, setup: StageSetup) -> Model:
        """The graph for a cache of that size; with a divider, measures what plans for it depend on. Raises CutsetError:
        a worker that can't be used, a model that doesn't fit."""
        self._survey(setup)
        model = self._graph(self._described(setup))
        if self.divider is not None:
            self._measure(setup)
            context = setup.blocks * setup.block_size // min(self.limits.sequences, setup.blocks)
            most = self.most
            self.divider.prepare(model.graph, model.digest, self.spec, context, most, self.check_card)
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

    def open(self, setup: StageSetup) -> StageSetup:
        """Makes the graph, with the digests of all weights. The setup as stages are told it."""
        if not self.spec.state_floats:
            setup = replace(setup, prefixes=bytes(32))  # of the length that it will have
        self._survey(setup)
        described = self._described(setup)
        self._model = model = self.describe(setup)
        names = [name for name in model.graph.weights if name != DESCRIPTION]
        for done, name in enumerate(names):
            model.weight_digest(name)
            if self._progress is not None:
                self._progress("hashing weights", done + 1, len(names))
        if setup.prefixes:
            setup = replace(setup, prefixes=self._prefixes(model, setup, described))
            assert isinstance(model.weights, StageWeights)
            model.weights.describe(replace(described, setup=encode_setup(setup)))
        self.source.forget()
        return setup

    def _prefixes(self, model: Model, setup: StageSetup, described: StageModel) -> bytes:
        """What the bytes of a block depend on, as far as it is known here. An adapter is part of a block's digest."""
        names = [name for name in model.graph.weights if name != DESCRIPTION and not name.startswith(ADAPTER)]
        weights = {name: model.weight_digest(name) for name in names}
        computed = [described.architecture, described.normalised, described.tied, described.backend, described.dtype]
        depends = [computed, setup.kv_dtype, setup.block_size, self.limits.context, weights]
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).digest()

    def plan(self, alive: Collection[str], cards: Mapping[str, Card]) -> Plan:
        """A plan for the stages, with spares in the places of those that are gone. `cards` are of all that were there:
        one may have come later, or been started anew as another one. Raises NoPlan, and says why in `why`."""
        try:
            plan = self._plan([name for name in alive if self._fits(name, cards.get(name))], cards)
        except NoPlan as error:
            self.why = str(error)
            raise
        self.why = ""
        return plan

    def _plan(self, alive: Sequence[str], cards: Mapping[str, Card]) -> Plan:
        named = list(self.workers.stages)
        absent = [name for name in named if name not in alive]
        if absent and not self.begun:
            raise NoPlan(f"{', '.join(absent)} can't be reached")
        spares = [name for name in self.workers.spares if name in alive]
        chosen = [name if name in alive else spares.pop(0) if spares else "" for name in named]
        memory = {name: float(card.memory) for name, card in cards.items()}  # 0 for no limit
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
        if self.divider is not None and using:
            division = self.divider.divide(using, memory)
            self._groups[division.plan.stages] = division.depth
            return division.plan
        graph = self.model.graph
        stages = by_weight(graph, using, memory, self.most, uncut=uncut(self.spec)) if using else None
        if stages is None:
            raise ConfigError(self._missing(using, memory))
        return Plan(self.model.digest, stages, scheduler="by weight")

    def _fits(self, name: str, card: Card | None) -> bool:
        """Whether a worker that is there can be used."""
        if card is None:
            return True
        try:
            self.check_card(name, card)
        except LinkError as error:
            if self._unfit.get(name) != str(error):
                self._unfit[name] = str(error)
                self._log(str(error))
            return False
        return True

    def _missing(self, using: Sequence[str], memory: Mapping[str, float]) -> str:
        graph = self.model.graph
        state = sum(node.state for node in graph.nodes)
        need = (graph.weight_bytes(range(len(graph.nodes))) + state) / 2**20
        have = sum(memory.get(name, 0.0) for name in using) / 2**20
        there = f"the {len(using)} that are there may use {have:,.0f} MiB" if using else "none is there"
        return (
            f"the stages need about {need:,.0f} MiB for weights and cache, and {there}: give another --stages or "
            "--spares, more --memory, or less --cache-mib"
        )

    def check_card(self, name: str, card: Card) -> None:
        """Raises LinkError for a worker that doesn't compute as the others do."""
        check_card(name, card, software_of(self._isa), isa=self._isa)
