"""What planners know: a network, this machine's profile of it, what its values cost to send, and the plans' costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cutset.cluster.coordinator.advisor import Advisor
from cutset.cluster.values import Array
from cutset.config import StreamSettings
from cutset.errors import ConfigError
from cutset.partition.choices import best, compare, explain, stages_text
from cutset.partition.cost import CostModel, per_item, why_not
from cutset.partition.description import graph_digest
from cutset.partition.live_planner import LivePlanner
from cutset.partition.plan import Plan
from cutset.partition.problem import Problem
from cutset.partition.profile import Profile, Sizes, read_profile
from cutset.video.accuracy import DELTA_ERROR
from cutset.video.delta.pricing import DeltaPrice
from cutset.video.network_model import NetworkModel
from cutset.video.networks import open_file, open_network, own_size, profile_name
from cutset.video.profile.delta_price import MOST_PICTURES, price_delta
from cutset.video.profile.setup import (
    WORDS,
    Progress,
    Wish,
    measure_pictures,
    measure_profile,
    no_progress,
    problem_of,
    sizes_of,
)
from cutset.video.runtimes.choose import choose_runtime
from cutset.video.sources import Picture, open_source
from cutset.video.sparsity.forecast import Forecast
from cutset.video.sparsity.predictor import read_trained

__all__ = [
    "ZooModel",
    "check_promise",
    "expected_costs",
    "load_network",
    "measured_planner",
    "profile_name",
    "source_price",
    "source_sizes",
]

DEFAULT_SIZE = (480, 720)
SIZED = 6  # pictures of the source, on which sizes are measured
MOST_SIZED = 48  # pictures of a list, among which those are typical


@dataclass(frozen=True)
class ZooModel:
    """A network for pictures of one size, as commands that measure and plan take it."""

    name: str  # as a profile has it
    model: NetworkModel
    source: str | None
    runtime: str = ""  # what computes it, as plans name it; "": the reference

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of its pictures."""
        height, width = self.model.input.shape[2:]
        return height, width

    def profile(self, threads: int, *, fresh: bool = False, progress: Progress = no_progress) -> Profile:
        """This machine's profile of it."""
        model = self.model
        return measure_profile(
            self.name,
            model.graph,
            model.digest,
            model.tensors,
            threads=threads,
            fresh=fresh,
            progress=progress,
            runtime=self.runtime,
        )

    def sizes(self, count: int, *, progress: Progress = no_progress) -> Sizes:
        """What the first `count` pictures of its source cost to send."""
        model = self.model
        return measure_pictures(
            model.graph, model.tensors, self.source or "", size=self.size, count=count, progress=progress
        )


def load_network(
    network: Any,
    settings: StreamSettings,
    source: str | None,
    *,
    threads: int | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> ZooModel:
    """A network (a name of the zoo, an ONNX file or a torch module) for pictures of the settings' size, else of its
    own or the source's, and what computes it with so many threads (the settings' without). Raises CutsetError."""
    network = open_file(network)
    size = settings.picture_size or own_size(network)
    if source and size is None:
        with open_source(source) as opened:
            size = opened.size
    model = open_network(network, (1, 3, *(size or DEFAULT_SIZE)), "uint8", settings)
    runtime = choose_runtime(model, settings.runtime, settings.tolerance, threads or settings.threads, log)
    return ZooModel(profile_name(network, settings.features), model, source, runtime)


def measured_planner(
    name: str,
    model: NetworkModel,
    settings: StreamSettings,
    wish: Wish,
    sizes: Sizes | None,
    *,
    packets: bool,
    runtime: str = "",
    price: DeltaPrice | None = None,
    log: Callable[[str], None],
    progress: Progress,
) -> Advisor:
    """Measures this machine, says what the schedulers' plans would cost, and makes plans from then on.

    `name` is the network's in a profile; `sizes` are those of a source's pictures, None where nothing was measured.
    `packets`: every source has packets that can be forwarded. With a `price`, plans say which stages compute what
    changed alone. Raises CutsetError.
    """
    given = [read_profile(path) for path in settings.profile]
    if len(given) not in (0, 1, len(wish.names)):
        raise ConfigError(f"--profile names {len(given)} files for {len(wish.names)} workers")
    given = given * len(wish.names) if len(given) == 1 else given
    for worker, profile in zip(wish.names, given, strict=False):
        if profile.threads != settings.threads and isinstance(settings.workers, int):
            log(f"the profile of {worker} is for {profile.threads} threads; --threads gives it {settings.threads}")
    measured = measure_profile(
        name,
        model.graph,
        model.digest,
        model.tensors,
        threads=settings.threads,
        progress=progress,
        runtime=runtime,
    )
    problem = problem_of(model.graph, model.digest, measured, sizes, replace(wish, profiles=given), price)
    if not packets:
        problem = replace(problem, inputs={name: one for name, one in problem.inputs.items() if name != "packets"})
    who = "optimal" if settings.scheduler == "auto" else settings.scheduler
    forecast = _forecast(settings.sparsity, model, log) if settings.sparsity else None
    planner = LivePlanner(problem, who, forecast=forecast.traffic if forecast is not None else None)
    if price is not None:
        log(price.line())
    for line in _alternatives(problem, who):
        log(line)
    return Advisor(planner, settings.look, log, forecast)


def source_sizes(model: NetworkModel, source: Any, progress: Progress) -> Sizes | None:
    """What values cost to send, measured on a source: the text of one that isn't live, or a list of uint8 pictures.

    None for all others, whose pictures can't be had twice.
    """
    shape = model.input.shape
    if isinstance(source, str | Path):
        height, width = shape[-2:]
        return measure_pictures(
            model.graph, model.tensors, str(source), size=(height, width), count=SIZED, progress=progress
        )
    arrays = _listed(model, source, MOST_SIZED)
    if len(arrays) < 2:
        return None
    pictures = [Picture(i, one, float(i)) for i, one in enumerate(arrays)]
    return sizes_of(model.graph, model.tensors, pictures, None, "pictures", count=SIZED, progress=progress)


def _listed(model: NetworkModel, source: Any, most: int) -> list[Array]:
    """The first uint8 pictures of a list; none of anything else."""
    shape = model.input.shape
    if not isinstance(source, list | tuple) or model.input.dtype != "uint8" or shape[:2] != (1, 3):
        return []
    arrays = [np.asarray(getattr(one, "pixels", one)) for one in source[:most]]
    if any(one.dtype != np.uint8 or one.size != math.prod(shape) for one in arrays):
        return []
    return [one.reshape(shape) for one in arrays]


def source_price(
    model: NetworkModel, source: Any, settings: StreamSettings, *, runtime: str, progress: Progress = no_progress
) -> DeltaPrice | None:
    """What delta compute would cost for the first pictures of a source (see `source_sizes`) and the error that the
    settings allow. None where that can't be said: stages decide for themselves then."""
    if isinstance(source, str | Path):
        height, width = model.input.shape[-2:]
        with open_source(str(source), limit=MOST_PICTURES, size=(height, width)) as opened:
            pictures = [np.array(one.pixels) for one in opened]
    else:
        pictures = _listed(model, source, MOST_PICTURES)
    boxes = settings.min_agreement is not None
    limit = DELTA_ERROR if settings.max_error is None else settings.max_error
    return price_delta(
        model,
        pictures,
        limit if settings.min_agreement is None else 1 - settings.min_agreement,
        boxes=boxes,
        threads=settings.threads,
        runtime=runtime,
        progress=progress,
    )


def check_promise(settings: StreamSettings, plan: Plan | None, planner: LivePlanner | None) -> None:
    """Raises ConfigError where a plan that was given, or whoever makes plans, can't keep `pictures_stay`."""
    if not settings.pictures_stay:
        return
    problem = planner.problem() if planner is not None else None
    if problem is None or not problem.private:
        raise ConfigError("--pictures-stay is kept by plans that are made here: name one, as --scheduler optimal")
    if plan is not None:
        inputs = {**problem.inputs, plan.input: problem.inputs[""]}
        if why := why_not(replace(problem, inputs=inputs), plan):
            raise ConfigError(f"{settings.plan or 'the plan'}: {why} (--pictures-stay)")


def _forecast(path: Path, model: NetworkModel, log: Callable[[str], None]) -> Forecast:
    trained = read_trained(path)
    if graph_digest(trained.graph) != model.digest:
        raise ConfigError(f"{path} was trained for another network or picture size; see `cutset stream train`")
    forecast = Forecast(trained)
    log(forecast.why)
    return forecast


def _alternatives(problem: Problem, name: str) -> list[str]:
    """What each scheduler's plan would cost, a line."""
    choices = compare(problem)
    found = []
    for one in choices:
        if one.cost is not None and one.plan is not None:
            cost = f"{one.cost.latency * 1e3:.1f} ms, {1 / one.cost.period:.2f} pictures/s at most"
            refused = f" ({one.why_not})" if one.why_not else ""
            found.append(f"{one.name}: {cost}: {stages_text(one.plan, len(problem.graph.nodes), problem)}{refused}")
        else:
            found.append(f"{one.name}: {one.why_not}")
    found += explain(problem, best(problem, choices), choices, WORDS).splitlines()
    return [*found, f"plans are made by: {name}"]


def expected_costs(planner: LivePlanner, plan: Plan) -> tuple[float | None, list[tuple[str, float]]]:
    """Seconds a picture that a plan is expected to take, and those of other plans by name, as is known now."""
    problem = planner.problem()
    others = {}
    for one in compare(problem):
        if one.cost is not None and one.name != plan.scheduler:
            others[f"{one.name}, not allowed" if one.why_not else one.name] = per_item(problem, one.cost)
    expected = per_item(problem, CostModel(problem).cost(plan))
    return expected, [(name, seconds) for name, seconds in others.items() if math.isfinite(seconds)]
