"""`cutset bench plan`: plans of a language model's stages, predicted and run on emulated machines."""

from __future__ import annotations

import argparse

from cutset.cli.bench_rows import add_rounds, rows_table, save_rows
from cutset.cli.options import add_json
from cutset.cli.output import log
from cutset.errors import ConfigError

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "plans of a language model's stages, predicted and run on emulated machines"
DESCRIPTION = (
    "Starts clusters of slowed-down stages with emulated links on this machine, and runs the plan that `cutset plan` "
    "would choose, even shares, every machine alone and a few other divisions, in turns: what was predicted, what was "
    "measured, and the chosen plan against the best of all. A machine that does something else measures nothing."
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clusters", type=int, metavar="N", help="only the first N of the clusters")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="of each answer (default 64)")
    add_rounds(parser)
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    if not 8 <= args.tokens <= 100:
        raise ConfigError(f"--tokens must be 8 to 100, not {args.tokens}")
    from cutset.bench.stage_plans import CLUSTERS, run_plans_of_stages

    count = len(CLUSTERS) if args.clusters is None else args.clusters
    if not 1 <= count <= len(CLUSTERS):
        raise ConfigError(f"--clusters must be 1 to {len(CLUSTERS)}, not {count}")
    rows = run_plans_of_stages(CLUSTERS[:count], rounds=args.rounds, tokens=args.tokens, log=log)
    print(rows_table(rows))
    save_rows(args, rows, threads=1)
    return 0
