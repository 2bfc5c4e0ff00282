"""`cutset bench stream`, plans: what every scheduler's plan is said to cost, and what it costs when it is run.

A coordinator and three workers on this machine, nearest to the camera first: 8, 4 and 1 times slower than it would be
without emulation at first, then 4 times, then not at all; links of 8, 4 and 1 MB/s. *raw* pictures come as from a
camera without an encoder, *encoded* ones with the video's own packets, which plans may forward. Opponents send every
picture to the last machine, as floating-point numbers, bytes, JPEG (which changes it) or packets, or are the plans of
the other schedulers. Beside them are the best plan whose stages may compute what changed alone (delta compute) within
an error, and all on one machine in that way. What two names plan alike is run once a round; in the later rounds,
backwards and forwards in turn, only what came near the best in the first.

Planners know what values cost to send for the pictures that are played, so that plans are judged here and no forecast:
those that pass alone for latency, those that are on their way together for the time between pictures.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.bench.stream_session import IN_FLIGHT, Played, PlayedPictures, play, wait_for
from cutset.bench.stream_videos import Video
from cutset.cluster.emulation import Hop, connections
from cutset.cluster.launch.local import LocalWorkers
from cutset.compare.results import Row, summarise
from cutset.errors import CutsetError
from cutset.partition.choices import DELTA, compare, stages_text
from cutset.partition.cost import Cost, CostModel
from cutset.partition.plan import COORDINATOR, Plan, StagePlan
from cutset.partition.problem import Problem
from cutset.partition.profile import Profile, Sizes
from cutset.video.accuracy import DELTA_ERROR
from cutset.video.check import difference
from cutset.video.network_model import NetworkModel
from cutset.video.picture_forms import LOSSY
from cutset.video.profile.delta_price import price_delta
from cutset.video.profile.setup import REFUSED, Wish, measure_profile, other_inputs, problem_of, sizes_of, torch_threads
from cutset.video.sources import Picture, VideoCodec

__all__ = [
    "CHANGED_ALLOWED",
    "CHOSEN",
    "DELTA_ERRORS",
    "HOPS",
    "LATENCY",
    "MISSED",
    "MISSED_CHANGED",
    "PERIOD",
    "SPEEDS",
    "Candidate",
    "candidates",
    "chosen",
    "errors_of",
    "run_plans",
    "verdicts",
]

SPEEDS = (0.125, 0.25, 1.0)
HOPS = (Hop(8e6, 0.002), Hop(4e6, 0.005), Hop(1e6, 0.010))
SCHEDULERS = ("optimal", "balance", "neighbourhood", "edge", "cloud", "forward")
PATIENCE = 4.0  # seconds that a phase of a plan may take in a round, unless its least pictures take longer
ALONE, TOGETHER = (3, 10), (8, 16)  # pictures that count in a round, at least and at most
ROUNDS, FEW_ROUNDS = 3, 2  # these of slow networks
NEAR_BEST = 1.5  # times the best plan's latency or time between pictures: such plans are run in every round
SLOW = 6.0  # seconds a picture, above which a plan isn't run
SERIOUS = 1.5  # times the best plan's latency or time between pictures: of slow networks only such plans are run
START = 100  # the first picture that is played, or the next one that opens a group
AT_MOST = PlayedPictures.needed(ALONE[1], TOGETHER[1])
MEASURED = 12  # of the pictures of a phase, that sizes are measured on
CHOSEN = "the plan ÷ the best that was run"
MISSED = "prediction error of the latency"
MISSED_CHANGED = "prediction error of the latency with delta compute"
DELTA_ERRORS = "largest error of delta compute"
CHANGED_ALLOWED = "cutset optimal, delta compute allowed"
SAME_FULL = "cutset optimal's plan, full"
LATENCY, PERIOD = "latency a picture, alone", f"time between pictures, {IN_FLIGHT} on their way"


@dataclass(frozen=True)
class Candidate:
    """A plan for one of the two objectives, under the name of who made it."""

    system: str
    metric: str  # LATENCY or PERIOD
    plan: Plan
    deltas: bool
    cost: Cost
    scale: float | None = None  # of delta compute's thresholds; None: every stage computes all of every picture

    @property
    def seconds(self) -> float:
        """What is predicted of the metric."""
        return self.cost.latency if self.metric == LATENCY else self.cost.period

    @property
    def key(self) -> Any:
        """The same for plans that run alike."""
        return self.plan.stages, self.plan.input, self.deltas or bool(self.plan.input), self.scale

    @property
    def delta_stages(self) -> list[str]:
        """The workers that compute what changed alone."""
        return [] if self.scale is None else [stage.worker for stage in self.plan.stages if not stage.dense]


def candidates(
    problems: Mapping[str, tuple[Problem, Sizes]],
    encoded: bool,
    changed: Mapping[str, tuple[Problem, float]] = MappingProxyType({}),
) -> list[Candidate]:
    """Every plan that is compared. `problems`, by metric, allow packets where the source is encoded; `changed` are the
    same where stages may compute what changed alone, with the scale of thresholds by which they were priced."""
    found: dict[tuple[str, str], Candidate] = {}

    def add_changed(metric: str, asked: Problem, scale: float) -> None:
        for choice in compare(asked, ("optimal", "edge", "cloud"), {}, REFUSED):
            if choice.plan is None or choice.cost is None or choice.why_not:
                continue
            if choice.name != "optimal" and not choice.name.endswith(DELTA):
                continue
            some = any(asked.partial_stage(stage) for stage in choice.plan.stages)
            plan = choice.plan if some else replace(choice.plan, stages=_plain(choice.plan.stages))
            system = CHANGED_ALLOWED if choice.name == "optimal" else choice.name
            found[system, metric] = Candidate(
                system, metric, plan, asked.mode == "delta", choice.cost, scale if some else None
            )

    def add(metric: str, asked: Problem, names: Sequence[str], suffix: str = "", lossy: bool = False) -> None:
        for choice in compare(asked, names, others if lossy else {}, REFUSED):
            if choice.plan is None or choice.cost is None or (choice.name not in names and not lossy):
                continue
            system = ("cutset " if choice.name == "optimal" else "") + choice.name + suffix
            found[system, metric] = Candidate(system, metric, choice.plan, asked.mode == "delta", choice.cost)

    for metric, (problem, sizes) in problems.items():
        others = other_inputs(problem, sizes)
        inputs = {name: one for name, one in problem.inputs.items() if encoded or not name}
        asked = replace(problem, inputs=inputs)
        add(metric, asked, SCHEDULERS, lossy=True)
        full = replace(asked, mode="full", inputs={"": inputs[""]})
        add(metric, full, ("optimal", "cloud"), ", full")
        if "jpeg" in others:
            add(metric, replace(asked, inputs={**inputs, "jpeg": others["jpeg"]}), ("optimal",), ", JPEG allowed")
        best = found["cutset optimal", metric]
        if metric == LATENCY and not best.plan.input:
            same = replace(best, system=SAME_FULL, deltas=False, cost=CostModel(full).cost(best.plan))
            found[same.system, metric] = same
    for metric, (problem, scale) in changed.items():
        inputs = {name: one for name, one in problem.inputs.items() if encoded or not name}
        add_changed(metric, replace(problem, inputs=inputs), scale)
    return list(found.values())


def _plain(stages: tuple[StagePlan, ...]) -> tuple[StagePlan, ...]:
    """Stages of a run in which none computes what changed alone: the same plan has the same key then."""
    return tuple(replace(stage, dense=False) for stage in stages)


def chosen(found: Sequence[Candidate], serious: bool) -> list[Candidate]:
    """Those that are run: not those that take minutes."""
    kept = []
    for metric in (LATENCY, PERIOD):
        mine = [one for one in found if one.metric == metric]
        most = SERIOUS * min((one.seconds for one in mine), default=SLOW) if serious else SLOW
        kept += [one for one in mine if one.seconds <= most]
    return kept


def run_plans(
    name: str,
    model: NetworkModel,
    video: Video,
    quick: bool,
    log: Callable[[str], None],
    max_error: float = DELTA_ERROR,
) -> Iterator[Row]:
    """Rows for raw and encoded pictures of a video. `max_error`: what delta compute may make."""
    log(f"plans: {name}, {video.name}: profile")
    few = quick or name.startswith("vgg")
    pictures, codec = video.from_group(START, AT_MOST)
    profile = measure_profile(name, model.graph, model.digest, model.tensors, threads=1, fresh=True)
    problems = _problems(model, profile, pictures, codec, video.name, few)
    changed = _changed(model, profile, pictures, problems, few, max_error, lambda line: log(f"plans: {name}: {line}"))
    everything: list[Candidate] = []
    runs: dict[Any, Played] = {}
    with LocalWorkers(len(SPEEDS), speeds=SPEEDS) as workers:
        workers.stock(model)
        wait_for(workers)
        links = connections([COORDINATOR, *workers.names], HOPS)
        workloads: dict[str, list[Candidate]] = {}
        some: list[Candidate] = []
        for encoded in (False, True) if codec is not None else (False,):
            workload = f"{name}, {video.name}, {'encoded' if encoded else 'raw'}"
            workloads[workload] = found = candidates(problems, encoded, changed)
            _show(found, len(model.graph.nodes), workload, log)
            some += chosen(found, serious=profile.whole > 1.0)
        for turn in range(1 if quick else FEW_ROUNDS if few else ROUNDS):
            if turn:
                some = near_best(some, runs)[::-1]
            _play_all(model, workers, links, (pictures, codec), some, runs, quick, log)
        for workload, found in workloads.items():
            yield from _rows(workload, found, runs)
            yield from verdicts(workload, found, runs)
        everything += [one for found in workloads.values() for one in found]
    workload = f"{name}, {video.name}, all plans"
    for metric, partial in ((MISSED, False), (MISSED_CHANGED, True)):
        errors = errors_of([one for one in everything if (one.scale is not None) == partial], runs)
        if errors:
            yield summarise(workload, "cutset", metric, errors, "%")


def _problems(
    model: NetworkModel, profile: Profile, pictures: Sequence[Picture], codec: VideoCodec | None, source: str, few: bool
) -> dict[str, tuple[Problem, Sizes]]:
    """By metric: the problem, with what values cost for the pictures of that phase."""
    found = {}
    with torch_threads(1, model.graph):
        for metric, phase in _phases(few).items():
            sizes = sizes_of(model.graph, model.tensors, pictures, codec, source, count=MEASURED, among=phase)
            found[metric] = problem_of(model.graph, model.digest, profile, sizes, _wish(metric)), sizes
    return found


def _phases(few: bool) -> dict[str, slice]:
    """By metric: the pictures that count, as far as the near-best plans come to them, with the one before."""
    which = 0 if few else 1
    first, last = PlayedPictures.phases(ALONE[which], TOGETHER[which])
    return {LATENCY: first, PERIOD: last}


def _wish(metric: str) -> Wish:
    alone = metric == LATENCY
    return Wish(
        speeds=SPEEDS,
        hops=HOPS,
        objective="latency" if alone else "throughput",
        in_flight=1 if alone else IN_FLIGHT,
    )


def _changed(
    model: NetworkModel,
    profile: Profile,
    pictures: Sequence[Picture],
    problems: Mapping[str, tuple[Problem, Sizes]],
    few: bool,
    max_error: float,
    log: Callable[[str], None],
) -> dict[str, tuple[Problem, float]]:
    """By metric: the problem in which stages may compute what changed alone, priced on the pictures of that phase, and
    the scale of thresholds, one for all. Nothing where no layer can be computed so."""
    found: dict[str, tuple[Problem, float]] = {}
    scale: float | None = None
    for metric, phase in _phases(few).items():
        price = price_delta(model, [one.pixels for one in pictures[phase]], max_error, scale=scale)
        if price is None:
            return {}
        scale = price.scale
        log(f"{metric}: {price.line()}")
        sizes = problems[metric][1]
        found[metric] = problem_of(model.graph, model.digest, profile, sizes, _wish(metric), price), scale
    return found


def _show(found: Sequence[Candidate], layers: int, workload: str, log: Callable[[str], None]) -> None:
    for one in found:
        plan = f"{one.plan.input or 'uint8'}: {stages_text(one.plan, layers)}"
        how = f"; delta compute on {' and '.join(one.delta_stages)}" if one.delta_stages else ""
        log(f"plans: {workload}: {one.system}, {one.metric}: {one.seconds * 1e3:,.0f} ms predicted; {plan}{how}")


def _play_all(
    model: NetworkModel,
    workers: LocalWorkers,
    links: Mapping[Any, Any],
    source: tuple[Sequence[Picture], VideoCodec | None],
    found: Sequence[Candidate],
    runs: dict[Any, Played],
    quick: bool,
    log: Callable[[str], None],
) -> None:
    """Adds a round to `runs`, by the candidates' keys. Raises CutsetError where two exact plans give other results."""
    done = set()
    pictures, codec = source
    truth: list[NDArray[Any]] = next((run.outputs for run in runs.values() if run.outputs), [])
    for one in found:
        if one.key in done:
            continue
        done.add(one.key)
        latency = one.cost.latency
        period = min((o.seconds for o in found if o.key == one.key and o.metric == PERIOD), default=latency)
        alone = 2 if quick else int(np.clip(PATIENCE / latency, *ALONE))
        together = 2 if quick else int(np.clip(PATIENCE / period, *TOGETHER)) if latency < SLOW else 0
        what = PlayedPictures(pictures, codec if one.plan.input == "packets" else None, alone, together)
        how = f"{one.plan.input or 'uint8'}, {'delta' if one.deltas else 'full'}"
        how += ", delta compute" if one.scale is not None else ""
        log(f"plans: runs {one.system}: {how}, {alone}+{together}")
        played = play(model, workers, links, one.plan, what, deltas=one.deltas, scale=one.scale)
        if one.scale is not None:
            played.error = _error(played.outputs, truth)
        if one.plan.input in LOSSY or one.scale is not None:
            played.outputs = []
        elif not all(np.array_equal(mine, right) for mine, right in zip(played.outputs, truth, strict=False)):
            raise CutsetError(f"{one.system} gives other results than the plans before it")
        truth = max(truth, played.outputs, key=len)
        runs[one.key] = played if one.key not in runs else runs[one.key].then(played)


def _error(found: Sequence[NDArray[Any]], truth: Sequence[NDArray[Any]]) -> float:
    """The largest of a picture's output, as a share of its largest element."""
    pairs = zip(found, truth, strict=False)
    return max((difference({"": one}, {"": right})[1] for one, right in pairs), default=0.0)


def near_best(found: Sequence[Candidate], runs: Mapping[Any, Played]) -> list[Candidate]:
    """Those whose latency or time between pictures, as measured, is near the best of their metric."""
    kept = []
    for metric in (LATENCY, PERIOD):
        figures = [(one, seconds) for one in found if one.metric == metric and (seconds := _figure(one, runs))]
        best = min((seconds for _, seconds in figures), default=0.0)
        kept += [one for one, seconds in figures if seconds <= NEAR_BEST * best]
    return kept


def _figure(one: Candidate, runs: Mapping[Any, Played]) -> float | None:
    """Seconds of the candidate's metric as measured; None where it wasn't run."""
    played = runs.get(one.key)
    if played is None:
        return None
    seconds = statistics.median((played.latency if one.metric == LATENCY else played.periods) or [math.nan])
    return seconds if math.isfinite(seconds) else None


def _rows(workload: str, found: Sequence[Candidate], runs: Mapping[Any, Played]) -> Iterator[Row]:
    for one in found:
        yield Row(workload, one.system, f"{one.metric}, predicted", one.seconds * 1e3, "ms")
        seconds = _figure(one, runs)
        if seconds is None:
            continue
        played = runs[one.key]
        if one.metric == LATENCY:
            yield summarise(workload, one.system, one.metric, [s * 1e3 for s in played.latency], "ms")
            yield Row(workload, one.system, "bytes a picture, all links", statistics.fmean(played.nbytes), "B/picture")
            if one.scale is not None:
                yield Row(workload, one.system, DELTA_ERRORS, played.error, "rel error")
        else:
            yield Row(workload, one.system, one.metric, seconds * 1e3, "ms")


def verdicts(workload: str, found: Sequence[Candidate], runs: Mapping[Any, Played]) -> Iterator[Row]:
    """The optimal plan against the best of all that was run: 1 where it is the best."""
    allowances = (
        ("cutset optimal", "", False),
        ("cutset optimal, JPEG allowed", "jpeg", False),
        (CHANGED_ALLOWED, "", True),
    )
    for name, allowed, some in allowances:
        for metric in (LATENCY, PERIOD):
            figures = {
                one.system: seconds
                for one in found
                if one.metric == metric
                and one.plan.input not in LOSSY - {allowed}
                and (some or one.scale is None)
                and (seconds := _figure(one, runs))
            }
            if name in figures:
                ratio = figures[name] / min(figures.values())
                yield Row(workload, name, f"{metric}: {CHOSEN}", ratio, "rel")


def errors_of(found: Sequence[Candidate], runs: Mapping[Any, Played]) -> list[float]:
    """Per cent by which the predicted latency misses the measured one, each plan once."""
    pairs = {one.key: (one.seconds, _figure(one, runs)) for one in found if one.metric == LATENCY}
    return [abs(predicted / measured - 1) * 100 for predicted, measured in pairs.values() if measured]
