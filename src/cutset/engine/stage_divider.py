"""Divides a decoder's layers among workers by what was measured of them; the planner of an engine's stages."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cutset.engine.decoder_times import DecoderTimes
from cutset.engine.made_up import layer_model
from cutset.engine.stage_graph import StageModel
from cutset.engine.stage_planner import OVERHEAD, Division, StageLoad, StageMachine, StagePlanner
from cutset.engine.stage_survey import StageSurvey, survey
from cutset.engine.stage_timing import STRETCH, measured_times, stretch_of
from cutset.models.files.integer import Progress
from cutset.models.spec import DecoderSpec
from cutset.partition.graph import Graph
from cutset.partition.mesh import Mesh, mesh_of
from cutset.partition.plan import COORDINATOR

if TYPE_CHECKING:
    from cutset.cluster.messages import Card
    from cutset.engine.stage_settings import StageWorkers

__all__ = ["StageDivider"]

ROUNDS = 3  # times that hops are measured which a plan would use and nobody has seen
ROOM = 0.9  # of the memory that is free where a worker names no limit
MOST_ROWS = 8  # sequences with which workers are timed
TIMED, MOST_STEPS = 0.02, 64  # seconds that steps shall take together, and how many there are at most
NOTHING = (0, 0)  # steps and rows


class StageDivider:
    """Measures once, then plans as often as workers come and go.

    `all_of_them`: the stages are processes of this machine, which count as alike, and each gets layers.
    """

    def __init__(
        self,
        workers: StageWorkers,
        load: StageLoad,
        threads: int,
        *,
        all_of_them: bool = False,
        fresh: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.workers, self.load, self.all_of_them = workers, load, all_of_them
        self.survey = StageSurvey()
        self.times: DecoderTimes | None = None
        self.planner: StagePlanner | None = None
        self._threads, self._fresh, self._progress = threads, fresh, progress
        self._speeds: dict[str, float] = {}

    def measure(
        self, model: StageModel, graph: Graph, tensors: Mapping[str, Any], check: Callable[[str, Card], None]
    ) -> StageSurvey:
        """Times of this machine and of the workers, and hops; a second call gives the same. `graph` is one with hardly
        any cache. Raises CutsetError."""
        if self.times is not None:
            return self.survey
        chain = list(self.workers.stages)
        # Those with little memory get few layers to time: made-up weights lie there twice for a moment.
        survey(self.workers, chain, None, NOTHING, check, self.survey)
        limits = [card.memory for card in self.survey.cards.values() if card.memory]
        nodes = stretch_of(graph, min([STRETCH, *(limit / 6 for limit in limits)]))
        rows = 1 if self.load.objective == "latency" else min(self.load.sequences, MOST_ROWS)
        self.times = measured_times(model, graph, tensors, self._threads, fresh=self._fresh, progress=self._progress)
        here = float(self.times.step(rows, 1)[list(nodes)].sum())
        work = min(max(round(TIMED / here), 1), MOST_STEPS), rows
        survey(self.workers, chain, layer_model(model, graph, tensors, nodes), work, check, self.survey)
        self._speeds = {name: here / max(seconds, 1e-6) for name, seconds in self.survey.steps.items()}
        if self.all_of_them and self._speeds:
            self._speeds = dict.fromkeys(self._speeds, statistics.mean(self._speeds.values()))
        return self.survey

    def room(self, name: str) -> float:
        """Bytes that a worker may use: what it says, or most of what is free there."""
        card, free = self.survey.cards.get(name), self.survey.free.get(name, 0)
        if card is not None and card.memory:
            return float(card.memory)
        return ROOM * free / (len(self.workers.stages) if self.all_of_them else 1) if free else math.inf

    def prepare(
        self, graph: Graph, digest: str, spec: DecoderSpec, context: int, held: int, check: Callable[[str, Card], None]
    ) -> None:
        """Plans are for this graph from now on, whose cache has room for so much `context` of each sequence.

        Measures hops that the first plan would use, and that nobody has seen. Raises CutsetError: where no plan is
        possible, with what is missing.
        """
        assert self.times is not None
        load = StageLoad(self.load.objective, min(context, self.load.context), self.load.sequences)
        self.planner = StagePlanner(graph, digest, spec, self.times, load, held)
        for _ in range(ROUNDS):
            chosen = [stage.worker for stage in self.divide(list(self.workers.stages)).plan.stages]
            if not self.survey.lacks(chosen):
                return
            survey(self.workers, chosen, None, NOTHING, check, self.survey)

    def machines(self, names: Sequence[str], memory: Mapping[str, float] | None = None) -> list[StageMachine]:
        """These workers as planners see them; one that wasn't measured counts as the median of the others."""
        usual = statistics.median(self._speeds.values()) if self._speeds else 1.0
        found = []
        for name in names:
            said = (memory or {}).get(name, 0.0)
            found.append(
                StageMachine(
                    name,
                    self._speeds.get(name, usual),
                    said or self.room(name),
                    max(self.survey.overhead.get(name, OVERHEAD), OVERHEAD / 3),
                )
            )
        return found

    def mesh(self, names: Sequence[str]) -> Mesh:
        """What lies between the coordinator and these."""
        return mesh_of([COORDINATOR, *names], self.survey.hops)

    def divide(self, names: Sequence[str], memory: Mapping[str, float] | None = None) -> Division:
        """The plan for these workers, in this order. Raises ConfigError with what is missing."""
        assert self.planner is not None
        return self.planner.divide(self.machines(names, memory), self.mesh(names), all_of_them=self.all_of_them)
