"""`cutset bench decode`: how fast this machine runs random models in every dtype."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cutset.cli.bench_rows import add_rounds, comparisons, rows_table, save_rows
from cutset.cli.options import add_json, add_settings, settings_from
from cutset.cli.output import log
from cutset.compare.results import Row

if TYPE_CHECKING:
    from cutset.bench.decode import System

__all__ = ["DESCRIPTION", "HELP", "configure", "measure", "run"]

HELP = "prefill and decode in every dtype, beside the memory's bandwidth"
DESCRIPTION = (
    "Times random models in every dtype, in turns: tokens a second of prefill and decode, and the share of this "
    "machine's read bandwidth that decoding uses. In a checkout `python -m benchmarks decode` adds other programs."
)
MODELS = ("tiny", "minimind", "w246")
LARGE = "w1b"  # takes 5 GB of disk and 15 GB of memory beside other programs


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workload", action="append", choices=(*MODELS, LARGE, "start"), help=f"default: all of the models but {LARGE}"
    )
    parser.add_argument("--system", action="append", metavar="NAME", help="only these, as `native int8`; default: all")
    parser.add_argument("--python", action="append", metavar="FILE", help=argparse.SUPPRESS)
    add_rounds(parser)
    add_json(parser, "the figures")
    add_settings(parser, "threads")


def run(args: argparse.Namespace) -> int:
    from cutset.bench.decode import OWN, own_systems

    chosen = tuple(args.system or OWN)
    if args.python or "start" in (args.workload or ()) or not {*chosen} <= {*OWN}:
        raise comparisons("decode", f"here --workload is of {', '.join(MODELS)} and --system of {', '.join(OWN)}")
    threads = settings_from(args).thread_count
    rows, _ = measure(args.workload or MODELS, own_systems(chosen, threads), args.rounds)
    save_rows(args, rows, threads=threads)
    return 0


def measure(names: Iterable[str], systems: Sequence[System], rounds: int) -> tuple[list[Row], dict[str, str]]:
    """Runs and prints the workloads that are named; rows, and versions of other programs."""
    from cutset.bench.decode import WORKLOADS, run_workload

    rows, versions = list[Row](), dict[str, str]()
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Path(folder) / name
            WORKLOADS[name].model.write_checkpoint(checkpoint)
            found, seen = run_workload(WORKLOADS[name], checkpoint, systems, rounds=rounds, log=log)
        rows += found
        versions |= seen
        print(rows_table(found), end="\n\n", flush=True)
    return rows, versions
