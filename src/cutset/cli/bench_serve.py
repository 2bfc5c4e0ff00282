"""`cutset bench serve`: what HTTP costs the engine, and what many clients get of it."""

from __future__ import annotations

import argparse

from cutset.cli.bench_rows import add_rounds, rows_table, save_rows
from cutset.cli.options import add_json, add_settings, settings_from
from cutset.cli.output import log
from cutset.errors import ConfigError

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "the server beside the engine alone, and with many clients"
DESCRIPTION = (
    "Asks the server and the engine alone in turns for the same tokens of a random model in int8; then 1, 4 and 16 "
    "streaming clients: tokens a second of all, and the time to the first token. With --mixed it asks a real model: as "
    "many streaming clients, half of them under a JSON schema, beside the engine alone with the same requests."
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workload", choices=("w246", "tiny"), default="w246", help="default w246")
    parser.add_argument(
        "--mixed", metavar="MODEL", help="clients with a schema and without, of a model as in `generate`"
    )
    parser.add_argument("--clients", type=int, default=64, metavar="N", help="with --mixed (default 64)")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="of each answer, with --mixed (default 64)")
    add_rounds(parser)
    add_json(parser, "the figures")
    add_settings(parser, "threads")


def run(args: argparse.Namespace) -> int:
    from cutset.bench.decode import WORKLOADS
    from cutset.bench.offload import integer_checkpoint
    from cutset.bench.serve import Load, run_load

    threads = settings_from(args).thread_count
    if args.mixed:
        return _mixed(args, threads)
    model = WORKLOADS[args.workload].model
    load = Load(args.workload) if args.workload != "tiny" else Load("tiny", 16, 16, 4, (1, 4), 2)
    with integer_checkpoint(model) as folder:
        rows = run_load(load, folder, model.vocab, threads=threads, rounds=args.rounds, log=log)
    print(rows_table(rows))
    save_rows(args, rows, threads=threads, packages=("starlette", "uvicorn"))
    return 0


def _mixed(args: argparse.Namespace, threads: int) -> int:
    from cutset.bench.serve_mixed import run_mixed

    for name, value in (("clients", args.clients), ("tokens", args.tokens)):
        if not 2 <= value <= 1000:
            raise ConfigError(f"--{name} must be 2 to 1000, not {value}")
    rows = run_mixed(args.mixed, clients=args.clients, tokens=args.tokens, threads=threads, rounds=args.rounds, log=log)
    print(rows_table(rows))
    save_rows(args, rows, threads=threads, packages=("starlette", "uvicorn", "llguidance"))
    return 0
