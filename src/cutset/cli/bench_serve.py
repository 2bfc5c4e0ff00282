"""`cutset bench serve`: what HTTP costs the engine, and what many clients get of it."""

from __future__ import annotations

import argparse
import shlex
import sys

from cutset.cli.bench_decode import rows_table
from cutset.cli.options import add_json, add_settings, settings_from
from cutset.compare.results import Results, machine, save
from cutset.errors import RequestError

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "the server beside the engine alone, and with many clients"
DESCRIPTION = (
    "Asks the server and the engine alone in turns for the same tokens of a random model in int8; then 1, 4 and 16 "
    "streaming clients: tokens a second of all, and the time to the first token."
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workload", choices=("w246", "tiny"), default="w246", help="default w246")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds that count (default 5)")
    add_json(parser, "the figures")
    add_settings(parser, "threads")


def run(args: argparse.Namespace) -> int:
    from cutset.bench.decode import WORKLOADS
    from cutset.bench.offload import integer_checkpoint
    from cutset.bench.serve import Load, run_load

    settings = settings_from(args)
    if args.rounds < 1:
        raise RequestError(f"--rounds must be at least 1, not {args.rounds}")
    model = WORKLOADS[args.workload].model
    load = Load(args.workload) if args.workload != "tiny" else Load("tiny", 16, 16, 4, (1, 4), 2)
    with integer_checkpoint(model) as folder:
        rows = run_load(
            load,
            folder,
            model.vocab,
            threads=settings.thread_count,
            rounds=args.rounds,
            tell=lambda line: print(line, file=sys.stderr, flush=True),
        )
    print(rows_table(rows))
    if args.json:
        packages = ("starlette", "uvicorn")
        here = machine(settings.thread_count, packages)
        save(Results(shlex.join(["cutset", *sys.argv[1:]]), here, tuple(rows)), args.json)
    return 0
