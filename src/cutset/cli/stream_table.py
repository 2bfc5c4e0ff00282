"""How `cutset stream plan` and `simulate` show plans."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cutset.cli.output import say, table
from cutset.errors import RequestError
from cutset.files import write_atomically, write_json

if TYPE_CHECKING:
    from cutset.partition.choices import PlanChoice
    from cutset.partition.cost import Cost
    from cutset.partition.problem import Problem
    from cutset.partition.simulate import Simulation
    from cutset.partition.traffic import Traffic

__all__ = ["check_outputs", "memory_limits", "show", "speeds"]

HEAD = ("", "plan", "picture", "latency, ms", "pictures/s", "layers", "codec", "links", "first, ms", "kB/picture")
BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
DRAWN = 500  # pictures in a chart


def memory_limits(text: str) -> tuple[int | None, ...]:
    """`500MB,-,2GiB`: bytes of each worker, None for no limit. Raises RequestError."""
    limits: list[int | None] = []
    for part in text.split(",") if text else ():
        found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) *([A-Za-z]+)", part.strip())
        if part.strip() == "-":
            limits.append(None)
        elif found and found[2] in BYTES and float(found[1]) > 0:
            limits.append(round(float(found[1]) * BYTES[found[2]]))
        else:
            raise RequestError(f"{part!r}: write memory as 500MB, 2GiB, or - for no limit, with commas between workers")
    return tuple(limits)


def speeds(text: str, count: int) -> tuple[float, ...]:
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

    if args.gantt and args.gantt.suffix not in (".svg", ".html"):
        raise RequestError(f"{args.gantt} ends neither in .svg nor in .html")
    if not 1 <= args.simulate <= (DRAWN if args.gantt else MOST):
        raise RequestError(f"--simulate must be from 1 to {DRAWN if args.gantt else MOST:,}")
    if args.scheduler:
        scheduler(args.scheduler)


def show(problem: Problem, others: Mapping[str, Traffic], args: argparse.Namespace, title: str, threads: int) -> None:
    """Prints the table, what wins and why, and what the simulation says; writes what was asked for.

    `threads` are those of each worker for which layers were measured.
    """
    from cutset.partition.choices import ALWAYS, best, compare, explain
    from cutset.partition.cost import CostModel
    from cutset.partition.plan import write_plan
    from cutset.partition.simulate import simulate
    from cutset.video.profile.setup import REFUSED, WORDS

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
        write_atomically(args.out, write_plan(plan).decode() + "\n")
    if args.gantt:
        _draw(ran, args, title, _conditions(problem))
    if args.json:
        write_json(args.json, _document(problem, choices, chosen, ran, title) | {"threads": threads})


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
        stages_text(one.plan, len(problem.graph.nodes)),
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


def _draw(ran: Simulation, args: argparse.Namespace, title: str, note: str) -> None:
    from cutset.cluster.trace import gantt
    from cutset.cluster.trace.spans import Span
    from cutset.partition.plan import COORDINATOR

    timeline: dict[str, list[Span]] = {COORDINATOR: []}
    for one in ran.timeline():
        timeline.setdefault(one.party, []).append(Span(one.kind, 0, one.item, one.start, one.end, one.nbytes))
    count = sum(map(len, timeline.values()))
    if count > gantt.MOST_BARS:
        raise RequestError(f"{count:,} bars are too many for a chart; simulate fewer pictures, as --simulate 20")
    draw = gantt.html if args.gantt.suffix == ".html" else gantt.svg
    write_atomically(args.gantt, draw(timeline, f"{title}, simulated", note.replace("\n", "; ")))


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
        "plans": [_entry(one) for one in choices],
        "simulated": {"pictures": len(ran.delivered), "first": ran.first, "latency": ran.latency, "period": ran.period},
    }


def _entry(one: PlanChoice) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": one.name, "why_not": one.why_not}
    if one.plan is None or one.cost is None:
        return entry
    return entry | {
        "picture": one.plan.input or "uint8",
        "stages": [{"worker": stage.worker, "nodes": list(stage.nodes)} for stage in one.plan.stages],
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
