"""What `cutset simulate` says of many machines that serve in groups."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cutset.cli.output import say, table
from cutset.errors import ConfigError
from cutset.files import write_json

if TYPE_CHECKING:
    from cutset.engine.fleet_plan import FleetPlan
    from cutset.engine.stage_planner import StagePlanner

__all__ = ["show_fleet"]


def show_fleet(plan: FleetPlan, planner: StagePlanner, args: argparse.Namespace, name: str) -> None:
    """Prints it, and writes what was asked for. Raises ConfigError for a chart, which is of one plan."""
    for flag in ("output", "gantt"):
        if getattr(args, flag):
            raise ConfigError(f"--{flag} draws one plan: leave [serving] out of the file")
    serving, group = plan.serving, plan.group
    weights = planner.graph.weight_bytes(range(len(planner.graph.nodes)))
    say(
        f"{name}, {planner.spec.layers} layers, {weights / 1e9:,.1f} GB of weights; {plan.machines:,} machines: "
        f"{plan.groups:,} groups of {group.machines} stages, {serving.spares} spares"
        + (f", {plan.left_over} left over" if plan.left_over else "")
    )
    say(f"{serving.requests:g} requests a second, {serving.prompt} tokens and {serving.answer} generated, each\n")
    late = plan.percentiles()
    rows = [
        ("figure", "value"),
        ("tokens/s asked for", f"{plan.asked:,.0f}"),
        ("tokens/s served", f"{plan.served:,.0f}"),
        ("tokens/s of all groups at most", f"{plan.capacity:,.0f}"),
        ("token of a sequence alone", f"{group.token * 1e3:,.1f} ms"),
        ("request, median / 95 % / 99 %", " / ".join(f"{value:,.2f}" for value in late.values()) + " s"),
        ("bytes between machines", f"{plan.nbytes / 1e3:,.1f} KB a token, {plan.nbytes * plan.asked / 1e6:,.1f} MB/s"),
    ]
    if serving.mtbf:
        lost = plan.failures
        rows += [
            (
                "failures a day, taken by a spare",
                f"{lost.failures / lost.seconds * 86400:,.1f}, {lost.by_spare / lost.failures:.1%}",
            ),
            ("a group stands still, mean", f"{lost.outage:,.1f} s; at most {lost.worst} at once"),
            ("groups run", f"{lost.up:.4%} of the time"),
            ("requests that meet a failure", f"{plan.hit:.3%}"),
        ]
    if serving.cost:
        million = plan.hourly / (plan.served * 3600) * 1e6
        rows.append(("cost", f"{plan.hourly:,.2f} an hour, {million:,.2f} a million tokens"))
    print(f"{table(rows, right=[1])}\n")
    for place, one in enumerate(plan.limits()):
        say(f"{'breaks first' if not place else 'then'}: {one.name}, at {one.times:,.2f} times this load ({one.why})")
    if args.json:
        title = f"{' '.join(args.command_line[:2])} {name}"
        write_json(args.json, {"command": title} | plan.document())
