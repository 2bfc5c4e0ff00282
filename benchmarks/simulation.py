"""What `cutset simulate` says beside what is measured on this machine: `python -m benchmarks simulation`.

A file is written for each set of machines, read as the command reads it, planned, and the plan that it says is then
run: stages of a decoder, slowed down and with emulated links; requests that come at random to one group of them; and a
site's cameras, whose pictures a cloud of one worker computes. Predicted and measured are of the same machines: a speed
in the file is the share of a core that the process gets. Nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.targets import Target, targets_table
from cutset.bench.stage_plans import CLUSTERS, CONTEXT, MODEL, OBJECTIVES, PROMPT, EmulatedCluster, PlanTrial
from cutset.cli.bench_rows import add_rounds, rows_table, save_rows
from cutset.cli.options import add_json
from cutset.cli.output import log
from cutset.compare.results import Row, summarise
from cutset.config import load_settings, load_stream_settings
from cutset.engine.fleet_plan import plan_fleet
from cutset.engine.fleet_scenario import FleetServing
from cutset.engine.local_stages import LocalStages
from cutset.engine.stage_choices import StageChoices, stage_choices
from cutset.engine.stage_scenario import read_decoder_scenario
from cutset.engine.stage_simulation import simulated_planner
from cutset.models.files.source import ModelSource, open_source
from cutset.partition.hop import Hop
from cutset.partition.mesh import Mesh
from cutset.partition.plan import COORDINATOR
from cutset.stream import Stream
from cutset.video.planning import load_network
from cutset.video.profile.site_scenario import read_sites
from cutset.video.profile.site_simulation import plan_sites, run_sites
from cutset.video.summary import quantile

__all__ = ["TARGETS", "configure", "run"]

SIMULATED, MEASURED = "cutset simulate", "cutset, measured"
RATIO, OFF = "predicted over measured", "prediction off by"
TARGETS = (Target("what is predicted, off by per cent", OFF, 15.0, system=SIMULATED),)
PARTS = ("stages", "requests", "cameras")
GROUP = EmulatedCluster("two alike", (0.4, 0.4), CLUSTERS[0].hops)
LOAD, ANSWER = 0.6, 40  # of what a group can serve; tokens
SIZE, LINK, SPEED = (64, 96), Hop(5e5, 0.01), 0.5  # of cameras' pictures; to the cloud; of its worker


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parser.add_argument("--clusters", type=int, default=3, metavar="N", help="of the stages' (default 3)")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="of each answer (default 64)")
    parser.add_argument("--requests", type=int, default=200, metavar="N", help="that come at random (default 200)")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="of cameras (default 30)")
    add_rounds(parser)
    add_json(parser, "the rows")


def run(args: argparse.Namespace) -> int:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="cutset-bench-") as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")  # this machine is measured anew, as it is now
        parts = args.part or PARTS
        if "cameras" not in parts or len(parts) > 1:
            MODEL.write_checkpoint(folder / "model")
        if "stages" in parts:
            for cluster in CLUSTERS[: args.clusters]:
                rows += run_stages(cluster, folder, args.rounds, args.tokens)
        if "requests" in parts:
            rows += run_requests(folder, args.requests)
        if "cameras" in parts:
            rows += run_cameras(folder, args.seconds)
    print(rows_table(rows))
    print(f"\n{targets_table(rows, TARGETS)}")
    save_rows(args, rows, threads=1)
    return 0


def run_stages(cluster: EmulatedCluster, folder: Path, rounds: int, tokens: int) -> Iterator[Row]:
    """Rows of the plan for a cluster: its tokens a second, and the time of a token of one sequence."""
    source = open_source(folder / "model")
    with LocalStages(len(cluster.speeds), folder / "model", threads=1, speeds=cluster.speeds) as stages:
        for objective in OBJECTIVES:
            choices = _simulated(cluster, objective, source, folder)
            trial = PlanTrial(source, stages, cluster, objective, tokens, log, _paces(choices.mesh, stages.names))
            predicted = trial.said(choices.chosen)
            log(f"simulation: {trial.workload}: {choices.plan_text(choices.chosen)}: {predicted:,.2f} {trial.unit}")
            found = [trial.measure(choices.chosen) for _ in range(rounds + 1)][1:]
            yield from _rows(trial.workload, trial.metric, trial.unit, predicted, found)


def run_requests(folder: Path, count: int) -> Iterator[Row]:
    """Rows of a group of stages that serves requests as they come, as the simulation of many groups sees one."""
    source = open_source(folder / "model")
    with LocalStages(len(GROUP.speeds), folder / "model", threads=1, speeds=GROUP.speeds) as stages:
        choices = _simulated(GROUP, "throughput", source, folder)
        serving = FleetServing(requests=1.0, prompt=PROMPT, answer=ANSWER, stages=len(GROUP.speeds), count=100)
        plan = plan_fleet(choices.planner, choices.machines, choices.mesh, serving)
        serving = replace(serving, requests=LOAD * plan.capacity / ANSWER, count=count)
        plan = plan_fleet(choices.planner, choices.machines, choices.mesh, serving)
        trial = PlanTrial(source, stages, GROUP, "throughput", ANSWER, log, _paces(choices.mesh, stages.names))
        log(f"simulation: {count} requests, {serving.requests:.2f} a second")
        whole = trial.serve(plan.division, plan.run.arrivals.tolist(), ANSWER)
    workload = f"{count} requests at random, {LOAD:.0%} of what {GROUP.name} can serve"
    for at, value in plan.percentiles().items():
        measured = float(np.percentile(whole, float(at[1:])))
        yield from _rows(workload, f"request to its last token, {at}", "s", value, [measured])


def _simulated(cluster: EmulatedCluster, objective: str, source: ModelSource, folder: Path) -> StageChoices:
    """What `cutset simulate` plans for a file of these machines."""
    words = [f'model = "model"\nobjective = "{objective}"\ncontext = {CONTEXT}\nsequences = {cluster.sequences}']
    for number, (speed, hop) in enumerate(zip(cluster.speeds, cluster.hops, strict=True), 1):
        words.append(f'[[worker]]\nname = "worker{number}"\nspeed = {speed}\nlink = "{_hop(hop)}"')
    file = folder / "machines.toml"
    file.write_text("\n".join(words))
    settings = load_settings({"threads": 1, "dtype": "float32"})
    planner, machines, mesh = simulated_planner(read_decoder_scenario(file), source, settings, _quiet)
    return stage_choices(planner, machines, mesh)


def _paces(mesh: Mesh, names: list[str]) -> dict[tuple[str, str], Hop]:
    """The links that were planned for, to be emulated."""
    parties = [COORDINATOR, *names]
    return {
        (sender, receiver): mesh.way(i, j)
        for i, sender in enumerate(parties)
        for j, receiver in enumerate(parties)
        if i != j
    }


def run_cameras(folder: Path, seconds: float) -> Iterator[Row]:
    """Rows of a site whose box is too weak, so that the cloud, of one worker, computes all: the age of results when it
    has time, and the pictures a second when it hasn't."""
    file = folder / "sites.toml"

    def simulated(cameras: int, rate: float) -> tuple[float, float]:
        """Median age, and pictures a second at most."""
        file.write_text(
            f'model = "alexnet"\nfeatures = true\nsize = "{SIZE[0]}x{SIZE[1]}"\nrate = {rate}\nchanged = 1\n'
            f"[cloud]\nmachines = 1\nspeed = {SPEED}\n"
            f'[[site]]\ncameras = {cameras}\nlink = "{_hop(LINK)}"\nlocal = "100GB/s,0.001ms"\nspeed = 0.0001\n'
        )
        scenario = read_sites(file)
        plans = plan_sites(scenario, net.model.graph, net.model.digest, profile, _quiet)
        ran = run_sites(scenario, plans)
        assert {plan.name for plan in plans} == {"cloud"}
        return float(np.median(ran.latency)), ran.offered * ran.bearings[0].times

    settings = replace(load_stream_settings({}), size="{}x{}".format(*SIZE), features=True)
    net = load_network("alexnet", settings, None)
    profile = net.profile(1, progress=_quiet)
    _, most = simulated(1, 1.0)
    for cameras, load in ((1, 0.5), (4, 2.0)):
        rate = load * most / cameras
        age, bears = simulated(cameras, rate)
        workload = f"{cameras} cameras, {load:g} times what a cloud of one worker bears"
        log(f"simulation: {workload}, {rate:.2f} pictures a second of each")
        ages, done = _played(cameras, rate, seconds)
        if load < 1:
            yield from _rows(workload, "age of a result, median", "s", age, [quantile(ages, 0.5)])
        else:
            yield from _rows(workload, "pictures a second", "pictures/s", bears, [done])


def _played(cameras: int, rate: float, seconds: float) -> tuple[list[float], float]:
    """Ages of results, and pictures a second, of cameras in which everything changes."""
    count, random = max(round(rate * seconds), 10), np.random.default_rng(0)
    scene = [random.integers(0, 256, (1, 3, *SIZE)).astype(np.uint8) for _ in range(16)]
    sources = [[scene[(start + number) % 16] for number in range(count)] for start in range(cameras)]
    ages: list[float] = []
    ended: list[float] = []
    ways = {(COORDINATOR, "worker1"): LINK, ("worker1", COORDINATOR): LINK}
    how: dict[str, Any] = {
        "workers": 1,
        "speed": str(SPEED),
        "scheduler": "even",
        "features": True,
        "rate": rate,
        "paces": ways,
    }
    if cameras > 1:
        how |= {"deadline": 2.0}
    with Stream("alexnet", *sources, **how) as stream:
        for result in stream:
            if not result.dropped:
                ages.append(result.age)
                ended.append(result.done)
    begin = len(ended) // 5  # by then what is on its way is as much as ever
    return ages[begin:], (len(ended) - 1 - begin) / (ended[-1] - ended[begin])


def _rows(workload: str, metric: str, unit: str, predicted: float, measured: list[float]) -> Iterator[Row]:
    found = statistics.median(measured)
    yield Row(workload, SIMULATED, metric, predicted, unit)
    yield summarise(workload, MEASURED, metric, measured, unit)
    yield Row(workload, SIMULATED, f"{metric}: {RATIO}", predicted / found, "x")
    yield Row(workload, SIMULATED, f"{metric}: {OFF}", abs(predicted / found - 1) * 100, "%")


def _hop(hop: Hop) -> str:
    return f"{hop.bandwidth / 1e6:g}MB/s,{hop.latency * 1e3:g}ms"


def _quiet(what: str, done: int, of: int) -> None:
    """Nobody watches."""
