"""`cutset bench plan`: what plans of a language model's stages are said to do, and what they do when they are run.

Each cluster is a few processes of `cutset stage` on this machine, a thread each, some slowed down, with emulated links.
For both objectives the chosen plan, even shares, every machine alone and a few other divisions are run in turns.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np

from cutset.bench.turns import medians, take_turns
from cutset.cluster.emulation import Hop, connections
from cutset.compare.results import Row
from cutset.engine import Engine, SamplingParams
from cutset.engine.cluster_pipeline import ClusterPipeline
from cutset.engine.local_stages import LocalStages
from cutset.engine.stage_choices import StageChoices, stage_choices
from cutset.engine.stage_divider import StageDivider
from cutset.engine.stage_graph import StageLimits
from cutset.engine.stage_item import StageSetup
from cutset.engine.stage_planner import Division, StageLoad
from cutset.engine.stage_settings import StageWorkers
from cutset.errors import EngineError
from cutset.models.files.source import ModelSource, open_source
from cutset.models.random import RandomModel
from cutset.models.text.tokenizer import Tokenizer
from cutset.partition.plan import COORDINATOR, Plan, StagePlan
from cutset.partition.problem import Objective

__all__ = [
    "CHOSEN",
    "CLUSTERS",
    "CONTEXT",
    "MODEL",
    "OBJECTIVES",
    "PROMPT",
    "EmulatedCluster",
    "PlanTrial",
    "run_plans_of_stages",
]

CHOSEN, ALONE = "the plan ÷ the best that was run", "the plan ÷ the best machine alone"
RATE, TOKEN = "tokens a second", "time of a token"
MODEL = RandomModel(hidden=768, layers=10, heads=12, kv_heads=4, intermediate=2048, vocab=2048, max_pos=256, tied=False)
CONTEXT, BLOCK, PROMPT = 128, 16, 8  # tokens
OBJECTIVES: tuple[Objective, ...] = ("throughput", "latency")
OTHERS = 3  # divisions beside the planner's


@dataclass(frozen=True)
class EmulatedCluster:
    """Machines on a line, as shares of this one's speed, and the hop to each from the one before."""

    name: str
    speeds: tuple[float, ...]
    hops: tuple[Hop, ...]
    sequences: int = 8


NEAR, WIDE = Hop(1e8, 0.0005), Hop(2e7, 0.02)
CLUSTERS = (
    EmulatedCluster("two alike", (0.5, 0.5), (NEAR, NEAR)),
    EmulatedCluster("one quick, one slow", (0.5, 0.2), (NEAR, NEAR)),
    EmulatedCluster("a weak one between", (0.5, 0.05, 0.5), (NEAR, NEAR, NEAR)),
    EmulatedCluster("three uneven", (0.2, 0.3, 0.4), (NEAR, NEAR, NEAR)),
    EmulatedCluster("far apart", (0.4, 0.4), (WIDE, WIDE)),
    EmulatedCluster("slow near, quick far", (0.15, 0.5), (NEAR, WIDE), sequences=4),
)


class _Told(StageDivider):
    """Divides as it is told, once it is."""

    told: Division | None = None

    def divide(self, names: Sequence[str], memory: object = None) -> Division:
        if self.told is None:
            return super().divide(names)
        assert self.planner is not None
        return replace(self.told, plan=replace(self.told.plan, graph=self.planner.digest))


def run_plans_of_stages(
    clusters: Sequence[EmulatedCluster], *, rounds: int, tokens: int, log: Callable[[str], None]
) -> list[Row]:
    """Rows of what was predicted and measured, and of the chosen plan against the others. Raises CutsetError."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        MODEL.write_checkpoint(path)
        source = open_source(path)
        for cluster in clusters:
            with LocalStages(len(cluster.speeds), path, threads=1, speeds=cluster.speeds) as stages:
                for objective in OBJECTIVES:
                    rows += PlanTrial(source, stages, cluster, objective, tokens, log).rows(rounds)
    return rows


class PlanTrial:
    """One cluster and one objective. `paces`: what lies between the parties, if it isn't the cluster's own line."""

    def __init__(
        self,
        source: ModelSource,
        stages: LocalStages,
        cluster: EmulatedCluster,
        objective: Objective,
        tokens: int,
        log: Callable[[str], None],
        paces: Mapping[tuple[str, str], Hop] | None = None,
    ) -> None:
        self.source, self.cluster, self.objective, self.tokens, self._log = source, cluster, objective, tokens, log
        self.workload = f"{cluster.name}, {objective}"
        paces = paces or connections([COORDINATOR, *stages.names], cluster.hops)
        self.workers = StageWorkers(stages.addresses, starting=60.0, paces=paces)
        self.sequences = cluster.sequences if objective == "throughput" else 1
        self.divider = _Told(self.workers, StageLoad(objective, CONTEXT, cluster.sequences), 1)
        self._tokenizer = Tokenizer.load(source.path)

    def rows(self, rounds: int) -> Iterator[Row]:
        """Of all plans: predicted and measured, and the chosen one against the others."""
        choices = self._choices()
        found = self._candidates(choices)
        for name, one in found.items():
            self._log(f"plan: {self.workload}: {name}: {choices.plan_text(one)}: {self.said(one):,.2f} {self.unit}")
        measured = medians(take_turns(self.workload, [self._turn(*each) for each in found.items()], rounds, self._log))
        yield from measured
        figures = {row.system: row.value for row in measured}
        yield from (
            Row(self.workload, name, f"{self.metric}, predicted", self.said(one), self.unit)
            for name, one in found.items()
        )
        chosen = figures["cutset optimal"]
        single = [value for name, value in figures.items() if name.endswith("alone")]
        for metric, others in ((CHOSEN, figures.values()), (ALONE, single)):
            ratio = chosen / max(others) if self.objective == "throughput" else min(others) / chosen
            yield Row(self.workload, "cutset optimal", metric, ratio, "x")

    @property
    def metric(self) -> str:
        """What is measured."""
        return RATE if self.objective == "throughput" else TOKEN

    @property
    def unit(self) -> str:
        """Of what is measured."""
        return "tok/s" if self.objective == "throughput" else "ms"

    def said(self, one: Division) -> float:
        """What is predicted of a division."""
        return one.rate if self.objective == "throughput" else one.token * 1e3

    def _pipeline(self) -> ClusterPipeline:
        limits = StageLimits(64, self.cluster.sequences, CONTEXT)
        return ClusterPipeline(self.source, self.workers, limits, dtype="float32", divider=self.divider)

    def _choices(self) -> StageChoices:
        blocks = self.cluster.sequences * CONTEXT // BLOCK
        self._pipeline().planning.describe(StageSetup(blocks, BLOCK))
        names = list(self.workers.stages)
        assert self.divider.planner is not None
        return stage_choices(self.divider.planner, self.divider.machines(names), self.divider.mesh(names))

    def _candidates(self, choices: StageChoices) -> dict[str, Division]:
        found = {"cutset optimal": choices.chosen}
        if choices.even is not None:
            found["even"] = choices.even
        found |= {f"{one.plan.stages[0].worker} alone": one for one in choices.alone}
        rng, planner = random.Random(self.workload), choices.planner
        count, names = len(planner.graph.nodes), [one.name for one in choices.machines]
        for number in range(OTHERS):
            many = rng.randint(2, len(names))
            cuts = sorted(rng.sample(range(2, count - 1), many - 1))
            chosen = rng.choice(list(combinations(names, many)))
            parts = pairwise([0, *cuts, count])
            stages = tuple(StagePlan(name, tuple(range(*part))) for name, part in zip(chosen, parts, strict=True))
            plan = Plan(planner.digest, stages, scheduler="other")
            found[f"other {number + 1}"] = planner.judged(plan, choices.machines, choices.mesh)
        return found

    def _turn(self, name: str, division: Division) -> Callable[[int], Iterator[Row]]:
        def turn(number: int) -> Iterator[Row]:
            value = self.measure(division)
            yield Row(self.workload, name, self.metric, value, self.unit)

        return turn

    def measure(self, division: Division) -> float:
        """Tokens a second of all sequences, or milliseconds of a token of one."""
        with self._engine(division) as engine:
            for number in range(self.sequences):
                self._ask(engine, number, self.tokens)
            return self._decoded(engine)

    def serve(self, division: Division, arrivals: Sequence[float], answer: int) -> list[float]:
        """Seconds from each request to its last token, for requests that come at these seconds and get so many tokens
        each."""
        whole, asked = [0.0] * len(arrivals), 0
        with self._engine(division) as engine:
            self._ask(engine, len(arrivals), 2)  # which finds everything cold
            while engine.has_work:
                engine.step()
            begun = time.perf_counter()
            while asked < len(arrivals) or engine.has_work:
                now = time.perf_counter() - begun
                while asked < len(arrivals) and arrivals[asked] <= now:
                    self._ask(engine, asked, answer)
                    asked += 1
                if not engine.has_work:
                    time.sleep(max(0.0, arrivals[asked] - now))
                    continue
                for delta in engine.step():
                    if delta.error is not None:
                        raise delta.error
                    if delta.finished:
                        number = int(delta.request_id)
                        whole[number] = time.perf_counter() - begun - arrivals[number]
        return whole

    def _ask(self, engine: Engine, number: int, tokens: int) -> None:
        ids = np.random.default_rng(number).integers(3, MODEL.vocab, PROMPT).astype(np.int32)
        engine.add(str(number), ids, SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True))

    @contextlib.contextmanager
    def _engine(self, division: Division) -> Iterator[Engine]:
        """An engine over stages that are divided so."""
        if PROMPT + self.tokens > CONTEXT:
            raise EngineError(f"{PROMPT + self.tokens} tokens are more than the context of {CONTEXT}")
        self.divider.told = replace(division, depth=division.depth if self.sequences > 1 else 1)
        pipeline = self._pipeline()
        try:
            yield Engine(
                pipeline,
                self._tokenizer,
                blocks=self.cluster.sequences * CONTEXT // BLOCK,
                block_size=BLOCK,
                max_batch_tokens=64,
                max_num_seqs=self.cluster.sequences,
                max_model_len=CONTEXT,
                prefix_caching=False,
            )
        finally:
            pipeline.close()
            self.divider.told = None

    def _decoded(self, engine: Engine) -> float:
        """From the first token of the last sequence to begin, until the first one ends."""
        seen: dict[str, int] = {}
        counted, started, ended = 0, 0.0, 0.0
        while engine.has_work:
            for delta in engine.step():
                if delta.error is not None:
                    raise delta.error
                seen[delta.request_id] = seen.get(delta.request_id, 0) + len(delta.token_ids)
                now = time.perf_counter()
                if started and not ended:
                    counted += len(delta.token_ids)
                if not started and len(seen) == self.sequences:
                    started = now
                if started and not ended and delta.finished:
                    ended = now
        if not counted or ended <= started:
            raise EngineError(f"{self.workload}: too few tokens to measure")
        rate = counted / (ended - started)
        return rate if self.objective == "throughput" else 1e3 / rate
