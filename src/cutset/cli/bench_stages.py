"""`cutset bench stages`: what a model over several stages reaches, each of them pinned to a core of this machine."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cutset.cli.bench_rows import add_rounds, rows_table, save_rows
from cutset.cli.options import add_json, output_folder
from cutset.cli.output import log

if TYPE_CHECKING:
    from cutset.bench.stage_models import StageBench
    from cutset.compare.results import Row

__all__ = ["DESCRIPTION", "HELP", "WORKLOADS", "configure", "measure", "run", "workload"]

HELP = "stages of a model, each pinned to a core: rates, hops, faults, memory"
DESCRIPTION = (
    "Starts stages of random models, each pinned to a core with one thread, and engines beside them, in turns: "
    "decoding in groups, with emulated latency, what a hop costs, prefill, failures, idle processes, memory limits, "
    "and whether all tokens are those of one place. In a checkout `python -m benchmarks stages` adds llama.cpp's RPC."
)
# Each is a function of a StageBench in a module of cutset.bench.
WORKLOADS = {
    "groups": ("stages", "16 streams in two groups beside the engine on one core and on both"),
    "hop": ("stages", "from one stage's kernels to the next one's"),
    "idle": ("stages", "CPU while nothing is asked"),
    "latency": ("stages", "20 ms a hop"),
    "prefill": ("stages", "time to first token"),
    "faults": ("stage_faults", "stages killed and stopped in the middle of answers"),
    "tokens": ("stage_tokens", "200 prompts on 1 to 4 stages"),
    "memory": ("stage_memory", "workers with little memory"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    listed = "; ".join(f"{name}: {words}" for name, (_, words) in WORKLOADS.items())
    parser.add_argument("--workload", action="append", choices=tuple(WORKLOADS), help=f"default: all. {listed}")
    parser.add_argument("--quick", action="store_true", help="a small model and few steps, to see that all of it runs")
    parser.add_argument("--models", type=output_folder, metavar="DIR", help="keep the models for the next time")
    add_rounds(parser)
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    rows = measure(args, [workload(name) for name in args.workload or WORKLOADS])
    save_rows(args, rows, threads=1)
    return 0


def measure(args: argparse.Namespace, chosen: Sequence[Callable[[StageBench], list[Row]]]) -> list[Row]:
    """Runs and prints workloads with the same models."""
    from cutset.bench.stage_models import stage_bench

    rows: list[Row] = []
    with stage_bench(args.rounds, quick=args.quick, log=log, kept=args.models) as bench:
        for each in chosen:
            found = each(bench)
            print(rows_table(found), end="\n\n", flush=True)
            rows += found
    return rows


def workload(name: str) -> Callable[[StageBench], list[Row]]:
    """The function that measures a workload."""
    module, _ = WORKLOADS[name]
    found: Callable[[StageBench], list[Row]] = getattr(importlib.import_module(f"cutset.bench.{module}"), f"run_{name}")
    return found
