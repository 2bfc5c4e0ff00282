"""`cutset stream plan`: what every scheduler's plan would cost on these machines and links, and which is best."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutset.cli.options import add_json, add_settings, different, output_ending, output_path, stream_settings_from
from cutset.cli.output import log, say, table
from cutset.cli.progress import Progress
from cutset.cli.serving_worker import size_in_bytes
from cutset.cli.stream_network import NETWORK_SETTINGS, add_network, network_from
from cutset.cli.stream_trace import write_chart
from cutset.config import STREAM_OPTIONS, StreamSettings
from cutset.errors import ConfigError, RequestError
from cutset.files import write_atomically, write_json

if TYPE_CHECKING:
    from cutset.cluster.trace.spans import Span
    from cutset.partition.choices import PlanChoice
    from cutset.partition.cost import Cost
    from cutset.partition.problem import Problem
    from cutset.partition.profile import Profile, Sizes
    from cutset.partition.simulate import Simulation
    from cutset.partition.traffic import Traffic
    from cutset.video.profile.setup import Wish

__all__ = [
    "DESCRIPTION",
    "HELP",
    "add_outputs",
    "basis",
    "check_outputs",
    "configure",
    "memory_limits",
    "run",
    "show",
    "timeline",
]

HELP = "show what every plan would cost, and which is best"
DESCRIPTION = (
    "Compares the plans of all schedulers, and sending the pictures to one machine, under one cost model: layers "
    "measured here (or a profile file), sizes measured on the first pictures of the source, and the links and speeds "
    "that you name. Workers are on a line, the one nearest to the camera first: link 1 leads to it, link 2 from there "
    "to the second worker, and so on."
)
HEAD = ("", "plan", "picture", "latency, ms", "pictures/s", "layers", "codec", "links", "first, ms", "kB/picture")
DRAWN = 500  # pictures in a chart
CHANGED = ("delta_compute", "max_error", "min_agreement")  # settings of stages that may compute what changed alone


def configure(parser: argparse.ArgumentParser) -> None:
    add_network(parser)
    parser.add_argument("--source", metavar="SOURCE", help="a video, a folder of pictures, generated:HxW, …")
    parser.add_argument(
        "--speed", default="1", metavar="0.125,0.25,1", help="of each worker, as multiples of the profile's machine"
    )
    parser.add_argument("--workers", default="", metavar="NAMES", help="names of the workers, with commas")
    parser.add_argument("--memory", default="", metavar="500MB,-", help="that each worker may use; - for no limit")
    parser.add_argument(
        "--horizon", type=float, default=math.inf, metavar="N", help="pictures that keys are spread over"
    )
    parser.add_argument("--jpeg", action="store_true", help="plans may send JPEG, which changes the results")
    parser.add_argument(
        "--changed", type=float, default=0.2, metavar="SHARE", help="of every value, without --source (default 0.2)"
    )
    parser.add_argument("--pictures", type=int, default=8, metavar="N", help="of the source to measure (default 8)")
    parser.add_argument(
        "--profile", type=Path, metavar="FILE", help="of `cutset stream profile`, in place of measuring"
    )
    add_outputs(parser)
    # The defaults of `cutset stream run`, so that a plan is for what a run does.
    names = (*NETWORK_SETTINGS, "threads", "link", "mode", "in_flight", "rate", "objective", "pictures_stay", *CHANGED)
    add_settings(parser, *names, options=STREAM_OPTIONS)


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Adds what `plan` and `simulate` write, and which scheduler's plan."""
    parser.add_argument("--scheduler", metavar="NAME", help="take this one's plan (default: the best)")
    parser.add_argument("-o", "--out", type=output_path, metavar="FILE", help="write the plan, for `run --plan FILE`")
    parser.add_argument(
        "--gantt", type=output_ending(".svg", ".html"), metavar="FILE.svg|FILE.html", help="draw simulated pictures"
    )
    parser.add_argument("--simulate", type=int, default=12, metavar="N", help="pictures to simulate (default 12)")
    add_json(parser, "the table")


def run(args: argparse.Namespace) -> int:
    check_outputs(args)
    different(args, "out", "gantt", "json")
    if not 2 <= args.pictures <= 1000:
        raise RequestError("--pictures must be from 2 to 1000")
    settings = stream_settings_from(args)
    wish = _wish(args, settings)

    from cutset.partition.profile import read_profile
    from cutset.video.planning import load_network, source_price
    from cutset.video.profile.setup import other_inputs, problem_of

    _check_changed(args, settings)
    given = read_profile(args.profile) if args.profile else None
    network = network_from(args, log)
    with Progress() as progress:
        net = load_network(network, settings, args.source, log=log)
        profile = given or net.profile(settings.threads, progress=progress)
        profile.check(net.model.graph, net.model.digest, str(args.profile or "the profile"))
        sizes = net.sizes(args.pictures, progress=progress) if args.source else profile.sizes
        price = None
        if settings.delta_compute:
            price = source_price(net.model, args.source, settings, runtime=net.runtime, progress=progress)
    problem = problem_of(net.model.graph, net.model.digest, profile, sizes, wish, price)
    print(f"{net.name}, {net.size[0]}x{net.size[1]}; {basis(profile, sizes, wish)}")
    if settings.delta_compute:
        print("delta compute: no layer can be computed by positions" if price is None else price.line())
    show(problem, other_inputs(problem, sizes), args, f"cutset stream plan {net.name}", profile.threads, net.runtime)
    return 0


def basis(profile: Profile, sizes: Sizes | None, wish: Wish) -> str:
    """Where the numbers are from."""
    many = profile.threads > 1
    threads = f"{profile.threads} thread{'s' if many else ''} a worker"
    threads += f" (`cutset stream run` gives it 1: say --threads {profile.threads} there)" if many else ""
    values = f"sizes: {sizes.items} pictures of {sizes.source}" if sizes else f"{wish.changed:.0%} of values change"
    return f"layers: {profile.cpu}, {threads}; {values}"


def _check_changed(args: argparse.Namespace, settings: StreamSettings) -> None:
    """Raises RequestError for flags of delta compute that say nothing without others, or not enough."""
    if settings.delta_compute and not args.source:
        raise RequestError("--delta-compute needs --source: how much changes is measured on its pictures")
    if settings.max_error is not None and settings.min_agreement is not None:
        raise RequestError("give either --max-error or --min-agreement, not both")
    for name in CHANGED[1:]:
        if getattr(settings, name) is not None and settings.by_hand(name) and not settings.delta_compute:
            raise RequestError(f"--{name.replace('_', '-')} is for plans with --delta-compute")


def _wish(args: argparse.Namespace, settings: StreamSettings) -> Wish:
    from cutset.partition.hop import parse_hops
    from cutset.video.profile.setup import Wish

    names = tuple(name for name in args.workers.split(",") if name)
    limits = memory_limits(args.memory)
    count = max(len(names), len(limits), len(settings.link), args.speed.count(",") + 1)
    if len(limits) == 1:
        limits *= count
    return Wish(
        speeds=_speeds(args.speed, count),
        hops=parse_hops(settings.link, count),
        names=names,
        memory=limits,
        objective=settings.objective,
        in_flight=settings.in_flight,
        rate=settings.rate,
        mode=settings.mode,
        horizon=args.horizon,
        pictures_stay=settings.pictures_stay,
        changed=args.changed,
        jpeg=args.jpeg,
    )


def memory_limits(text: str) -> tuple[int | None, ...]:
    """`500MB,-,2GiB`: bytes of each worker, None for no limit. Raises RequestError."""
    try:
        parts = [part.strip() for part in text.split(",")] if text else []
        return tuple(None if part == "-" else size_in_bytes(part) for part in parts)
    except ConfigError:
        raise RequestError(
            f"{text!r}: write memory as 500MB, 2GiB, or - for no limit, with commas between workers"
        ) from None


def _speeds(text: str, count: int) -> tuple[float, ...]:
    """`0.125,0.25,4`: of `count` workers, one for all or one for each. Raises RequestError."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise RequestError(f"{text!r}: write speeds as 0.125,0.25,4, where 1 is the profile's machine") from None
    if len(found) not in (1, count):
        raise RequestError(f"{len(found)} speeds for {count} workers: name one for all, or one for each")
    return found * count if len(found) == 1 else found


def check_outputs(args: argparse.Namespace) -> None:
    """Raises CutsetError for what `add_outputs` can't be, before anything takes time."""
    from cutset.partition.schedulers import scheduler
    from cutset.partition.simulate import MOST

    if not 1 <= args.simulate <= (DRAWN if args.gantt else MOST):
        raise RequestError(f"--simulate must be from 1 to {DRAWN if args.gantt else MOST:,}")
    if args.scheduler:
        scheduler(args.scheduler)


def show(
    problem: Problem,
    others: Mapping[str, Traffic],
    args: argparse.Namespace,
    title: str,
    threads: int,
    runtime: str = "",
) -> None:
    """Prints the table, what wins and why, and what the simulation says; writes what was asked for.

    `threads` are those of each worker for which layers were measured, `runtime` is what the plan's stages name.
    """
    from cutset.partition.choices import ALWAYS, best, compare, explain
    from cutset.partition.cost import CostModel
    from cutset.partition.plan import write_plan
    from cutset.partition.simulate import simulate
    from cutset.video.profile.setup import REFUSED, WORDS
    from cutset.video.runtimes.choose import stamped

    names = [*ALWAYS, *([args.scheduler] if args.scheduler and args.scheduler not in ALWAYS else [])]
    choices = compare(problem, names, others, REFUSED)
    chosen = best(problem, choices)
    if args.scheduler:
        chosen = next(one for one in choices if one.name == args.scheduler)
    plan = chosen.plan
    if plan is None:
        raise RequestError(f"{chosen.name} has no plan here: {chosen.why_not}")
    ran = simulate(CostModel(problem), plan, args.simulate)
    say(_conditions(problem))
    print(f"\n{table([HEAD, *(_row(problem, one, chosen) for one in choices)], right=range(3, 10))}\n")
    for one in choices:
        if one.why_not:
            say(f"{one.name}: {one.why_not}")
    if args.scheduler:
        print(f"taken as asked: {args.scheduler}")
    say(explain(problem, chosen, choices, WORDS))
    say(_simulated(problem, ran))
    if args.out:
        write_atomically(args.out, write_plan(stamped(plan, runtime)).decode() + "\n")
    if args.gantt:
        note, hint = _conditions(problem).replace("\n", "; "), "simulate fewer pictures, as --simulate 20"
        write_chart(args.gantt, timeline(ran), f"{title}, simulated", note, hint)
    if args.json:
        write_json(args.json, _document(problem, choices, chosen, ran, title) | {"threads": threads})


def timeline(ran: Simulation) -> dict[str, list[Span]]:
    """What was simulated, as a chart takes it."""
    from cutset.cluster.trace.spans import Span
    from cutset.partition.plan import COORDINATOR

    timeline: dict[str, list[Span]] = {COORDINATOR: []}
    for one in ran.timeline():
        timeline.setdefault(one.party, []).append(Span(one.kind, 0, one.item, one.start, one.end, one.nbytes))
    return timeline


def _conditions(problem: Problem) -> str:
    line = " ".join(f"–[{hop}]→ {machine.name}" for hop, machine in zip(problem.hops, problem.machines, strict=True))
    want = f"best {problem.objective}, {problem.mode} mode, {problem.in_flight or 'any number of'} in flight"
    rate = f", {problem.rate:g} pictures/s come" if problem.rate else ""
    return f"coordinator {line}\n{want}{rate}{', pictures stay with the first worker' if problem.private else ''}"


def _row(problem: Problem, one: PlanChoice, chosen: PlanChoice) -> tuple[str, ...]:
    from cutset.partition.choices import stages_text

    mark = "→ " if one is chosen else "  "
    if one.plan is None or one.cost is None:
        return (f"{mark}{one.name}", "–", *[""] * 8)
    cost = one.cost
    return (
        f"{mark}{one.name}{' (not allowed)' if one.why_not else ''}",
        stages_text(one.plan, len(problem.graph.nodes), problem),
        one.plan.input or "uint8",
        f"{cost.latency * 1e3:,.1f}",
        f"{1 / cost.period:,.2f}" if cost.period else "∞",
        *(_share(cost, kinds) for kinds in (("compute",), ("encode", "decode"), ("link",))),
        f"{cost.first * 1e3:,.1f}",
        f"{cost.nbytes / 1e3:,.1f}",
    )


def _share(cost: Cost, kinds: Sequence[Any]) -> str:
    return f"{sum(cost.total(kind) for kind in kinds) * 1e3:,.1f}"


def _simulated(problem: Problem, ran: Simulation) -> str:
    count = len(ran.delivered)
    text = f"simulated, {count} pictures: the first takes {ran.first * 1e3:,.1f} ms"
    if count > 1:
        text += f", the others {ran.latency * 1e3:,.1f} (median), one every {ran.period * 1e3:,.1f} ms"
    return text


def _document(
    problem: Problem, choices: Sequence[PlanChoice], chosen: PlanChoice, ran: Simulation, title: str
) -> dict[str, Any]:
    return {
        "command": title,
        "graph": problem.digest,
        "objective": problem.objective,
        "mode": problem.mode,
        "in_flight": problem.in_flight,
        "chosen": chosen.name,
        "plans": [_entry(problem, one) for one in choices],
        "simulated": {"pictures": len(ran.delivered), "first": ran.first, "latency": ran.latency, "period": ran.period},
    }


def _entry(problem: Problem, one: PlanChoice) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": one.name, "why_not": one.why_not}
    if one.plan is None or one.cost is None:
        return entry
    return entry | {
        "picture": one.plan.input or "uint8",
        "stages": [
            {"worker": stage.worker, "nodes": list(stage.nodes)}
            | ({"delta": True} if problem.partial_stage(stage) else {})
            for stage in one.plan.stages
        ],
        "latency": one.cost.latency,
        "period": one.cost.period,
        "first": one.cost.first,
        "weights": one.cost.weights,
        "bytes": one.cost.nbytes,
        "parts": [
            {"part": part.name, "seconds": part.seconds, "latency": part.latency, "bytes": part.nbytes}
            for part in one.cost.parts
        ],
    }
