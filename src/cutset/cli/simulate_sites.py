"""What `cutset simulate` says of many cameras in sites."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace

from cutset.cli.output import say, table
from cutset.cli.progress import Progress
from cutset.config import load_stream_settings
from cutset.errors import ConfigError
from cutset.files import write_json

__all__ = ["run_sites_file"]

NAMED = 4  # of what breaks first


def run_sites_file(args: argparse.Namespace) -> int:
    """Plans and simulates a file of sites; prints what came of it, and writes what was asked for."""
    for flag in ("output", "gantt"):
        if getattr(args, flag):
            raise ConfigError(f"--{flag} draws one plan, and a file of sites has one for each: leave it out")

    import numpy as np

    from cutset.partition.profile import read_profile
    from cutset.video.planning import load_network
    from cutset.video.profile.site_scenario import read_sites
    from cutset.video.profile.site_simulation import plan_sites, run_sites

    scenario = read_sites(args.file)
    given = read_profile(scenario.profile) if scenario.profile else None
    size = scenario.size or ("{}x{}".format(*given.size) if given else "")
    settings = replace(load_stream_settings({}), size=size, features=scenario.features)
    with Progress() as progress:
        net = load_network(scenario.model, settings, None)
        profile = given or net.profile(settings.threads, progress=progress)
        profile.check(net.model.graph, net.model.digest, str(scenario.profile or "the profile"))
        plans = plan_sites(scenario, net.model.graph, net.model.digest, profile, progress)
    ran = run_sites(scenario, plans)
    cameras = sum(site.cameras for site in scenario.sites)
    say(
        f"{net.name}, {net.size[0]}x{net.size[1]}: {cameras:,} cameras in {len(plans):,} sites, "
        f"{ran.offered:,.0f} pictures a second\n"
    )
    where = Counter[str]()
    for site, plan in zip(scenario.sites, plans, strict=True):
        where[plan.name] += site.cameras
    hourly = sum(site.cost for site in scenario.sites) + scenario.cloud.machines * scenario.cloud.cost
    bears = ran.bearings[0].times
    late = {f"p{at}": float(np.percentile(ran.latency, at)) for at in (50, 95, 99)}
    rows = [
        ("figure", "value"),
        ("pictures a second, at most so", f"{ran.offered * bears:,.0f}"),
        *(
            (f"cameras computed at {name if name != 'both' else 'edge and cloud'}", f"{n:,}")
            for name, n in where.items()
        ),
        ("picture, median / 95 % / 99 %", " / ".join(f"{value * 1e3:,.1f}" for value in late.values()) + " ms"),
        ("bytes to the cloud", f"{ran.nbytes / 1e6:,.1f} MB/s"),
        ("the cloud works", f"{ran.cloud_load:.1%} of {scenario.cloud.machines:,} machines"),
    ]
    if hourly:
        rows.append(("cost", f"{hourly:,.2f} an hour, {hourly / ran.offered / 3.6:,.3f} a thousand pictures"))
    print(f"{table(rows, right=[1])}\n")
    for place, one in enumerate(ran.bearings[:NAMED]):
        say(f"{'breaks first' if not place else 'then'}: {one.name}, at {one.times:,.2f} times this load")
    if bears < 1:
        late_sites = sum(one.times < 1 for one in ran.bearings)
        say(f"{late_sites} of these bear less than they are asked for: pictures are late, or dropped")
    if args.json:
        write_json(
            args.json,
            {
                "command": f"{' '.join(args.command_line[:2])} {args.file.name}",
                "cameras": cameras,
                "sites": [
                    {"name": site.name, "plan": plan.name, "latency": plan.latency, "bytes": plan.nbytes}
                    for site, plan in zip(scenario.sites, plans, strict=True)
                ],
                "offered": ran.offered,
                "latency": late,
                "bytes_a_second": ran.nbytes,
                "cloud_load": ran.cloud_load,
                "cost_an_hour": hourly,
                "limits": [{"name": one.name, "times": one.times} for one in ran.bearings],
            },
        )
    return 0
