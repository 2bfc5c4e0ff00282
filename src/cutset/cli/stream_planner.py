"""The planner of `cutset stream run`: from its flags to a LivePlanner, and what it says of the alternatives."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutset.cli.progress import Progress
from cutset.errors import ConfigError

if TYPE_CHECKING:
    from cutset.cluster.coordinator.advisor import Advisor
    from cutset.cluster.model import Model
    from cutset.partition.plan import Plan
    from cutset.partition.problem import Problem
    from cutset.video.sources import Source
    from cutset.video.sparsity.forecast import Forecast

__all__ = ["add_planning", "advisor", "allowed", "plans_are_made"]

PICTURES = 6  # of the source, on which sizes are measured
LOOK = 2.0  # seconds between looks for a better plan


def add_planning(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say how plans are made."""
    group = parser.add_argument_group("plans")
    group.add_argument("--plan", type=Path, metavar="FILE", help="the first plan, as `cutset stream plan` writes it")
    group.add_argument(
        "--scheduler",
        metavar="NAME",
        help="make plans from measurements: optimal, balance, neighbourhood, edge, cloud, forward, exhaustive "
        "(default: optimal; even: as many operations for each, without measuring)",
    )
    group.add_argument("--objective", choices=("latency", "throughput"), help="default: latency")
    group.add_argument("--pictures-stay", action="store_true", help="no picture leaves the first worker")
    group.add_argument("--profile", metavar="A,B,C", help="of each worker, as `cutset stream profile` writes it")
    group.add_argument(
        "--sparsity", type=Path, metavar="FILE", help="foresee what changes by a model of `cutset stream train`"
    )
    group.add_argument("--look", type=float, metavar="S", help="seconds between looks for a better plan (default 2)")


def plans_are_made(args: argparse.Namespace) -> bool:
    """Whether a planner measures and makes plans, or only a given one and even splits are played.

    Raises ConfigError for a flag that would then say how, and be ignored.
    """
    if args.scheduler != "even" and (args.scheduler or not args.plan):
        return True
    given = [f"--{name}" for name in ("objective", "profile", "sparsity", "look") if getattr(args, name) is not None]
    if given:
        why = "--scheduler even splits" if args.scheduler else "--plan alone plays a plan"
        raise ConfigError(f"{' and '.join(given)}: {why} without measuring; name a planner, as --scheduler optimal")
    return False


def advisor(
    args: argparse.Namespace,
    model: Model,
    names: Sequence[str],
    speeds: Sequence[float],
    source: str,
    sources: Sequence[Source],
    tell: Callable[[str], None],
) -> Advisor:
    """Measures this machine and the source, and says what the schedulers' plans would cost."""
    from cutset.cluster.coordinator.advisor import Advisor
    from cutset.partition.live import LivePlanner

    problem = _problem(args, model, names, speeds, source, sources, tell)
    name = args.scheduler or "optimal"
    forecast = _forecast(args.sparsity, model, tell) if args.sparsity else None
    planner = LivePlanner(problem, name, forecast=forecast.traffic if forecast is not None else None)
    for line in _alternatives(problem, name):
        tell(line)
    return Advisor(planner, LOOK if args.look is None else args.look, tell, forecast)


def allowed(args: argparse.Namespace, plan: Plan | None, advised: Advisor | None) -> None:
    """Raises ConfigError where --plan, or an even split, can't keep what --pictures-stay promises."""
    from cutset.partition.cost import why_not

    if not args.pictures_stay:
        return
    if advised is None:
        raise ConfigError("--pictures-stay is kept by plans that are made here: name one, as --scheduler optimal")
    problem = advised.planner.problem()
    if plan is not None:
        plan.check(problem.graph, problem.digest)
        inputs = {**problem.inputs, plan.input: problem.inputs[""]}
        if why := why_not(replace(problem, inputs=inputs), plan):
            raise ConfigError(f"{args.plan}: {why} (--pictures-stay)")


def _forecast(path: Path, model: Model, tell: Callable[[str], None]) -> Forecast:
    from cutset.partition.description import graph_digest
    from cutset.video.sparsity.forecast import Forecast
    from cutset.video.sparsity.predictor import read_trained

    trained = read_trained(path)
    if graph_digest(trained.graph) != model.digest:
        raise ConfigError(f"{path} was trained for another network or picture size; see `cutset stream train`")
    forecast = Forecast(trained)
    tell(forecast.why)
    return forecast


def _problem(
    args: argparse.Namespace,
    model: Model,
    names: Sequence[str],
    speeds: Sequence[float],
    source: str,
    sources: Sequence[Source],
    tell: Callable[[str], None],
) -> Problem:
    from cutset.cluster.emulation import parse_hops
    from cutset.partition.profile import read_profile
    from cutset.video.profile.setup import Wish, measure_pictures, measure_profile, problem_of

    given = [read_profile(Path(path)) for path in args.profile.split(",")] if args.profile else []
    if len(given) not in (0, 1, len(names)):
        raise ConfigError(f"--profile names {len(given)} files for {len(names)} workers")
    given = given * len(names) if len(given) == 1 else given
    _, _, height, width = model.picture.shape
    with Progress() as progress:
        measured: Any = measure_profile(
            args.model, model.graph, model.digest, model.tensors, threads=args.threads, tell=progress
        )
        sizes = None
        if not sources[0].live:
            sizes = measure_pictures(
                model.graph, model.tensors, source, size=(height, width), count=PICTURES, tell=progress
            )
    wish = Wish(
        speeds=tuple(speeds) or (1.0,) * len(names),
        hops=parse_hops(args.link, len(names)),
        names=tuple(names),
        objective=args.objective or "latency",
        in_flight=args.in_flight,
        rate=args.rate,
        mode=args.mode,
        pictures_stay=args.pictures_stay,
        profiles=tuple(given),
    )
    for name, profile in zip(names, given, strict=False):
        if profile.threads != args.threads and args.workers.isdigit():
            tell(f"the profile of {name} is for {profile.threads} threads; --threads gives it {args.threads}")
    problem = problem_of(model.graph, model.digest, measured, sizes, wish)
    if any(other.codec is None for other in sources):  # packets aren't for all
        inputs = dict(problem.inputs)
        inputs.pop("packets", None)
        problem = replace(problem, inputs=inputs)
    return problem


def _alternatives(problem: Problem, name: str) -> list[str]:
    """What each scheduler's plan would cost, a line."""
    from cutset.partition.choices import best, compare, explain, stages_text
    from cutset.video.profile.setup import WORDS

    choices = compare(problem)
    found = []
    for one in choices:
        if one.cost is not None and one.plan is not None:
            cost = f"{one.cost.latency * 1e3:.1f} ms, {1 / one.cost.period:.2f} pictures/s at most"
            refused = f" ({one.why_not})" if one.why_not else ""
            found.append(f"{one.name}: {cost}: {stages_text(one.plan, len(problem.graph.nodes))}{refused}")
        else:
            found.append(f"{one.name}: {one.why_not}")
    found += explain(problem, best(problem, choices), choices, WORDS).splitlines()
    return [*found, f"plans are made by: {name}"]
