"""`cutset bench structured`: answers under a schema beside free ones."""

from __future__ import annotations

import argparse
from pathlib import Path

from cutset.cli.bench_rows import add_rounds, rows_table, save_rows
from cutset.cli.options import add_json, add_settings, settings_from
from cutset.cli.output import log
from cutset.errors import ConfigError

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "answers under a JSON schema beside free ones"
DESCRIPTION = (
    "Decodes a list under a JSON schema and free text, in turns: tokens a second of both, and the median of their "
    "ratios; how much later a first token comes with a schema that is new, and with one that was compiled before. Then "
    "it answers random schemas, and with --suite those of the JSON Schema Test Suite that can be kept, and counts the "
    "complete answers that the library jsonschema finds valid."
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", nargs="?", default="story", help="as in `generate` (default story)")
    parser.add_argument("--tokens", type=int, default=128, metavar="N", help="of each text (default 128)")
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 8], metavar="N", help="at once (default 1 8)")
    parser.add_argument("--answers", type=int, default=50, metavar="N", help="to random schemas (default 50)")
    parser.add_argument(
        "--suite", metavar="DIR", help="the suite's tests/draft2020-12, or `fetch` to have it from PyPI"
    )
    add_rounds(parser)
    add_json(parser, "the figures")
    add_settings(parser, "backend", "dtype", "threads")


def run(args: argparse.Namespace) -> int:
    if not 8 <= args.tokens <= 100_000:
        raise ConfigError(f"--tokens must be 8 to 100000, not {args.tokens}")
    if not all(1 <= one <= 64 for one in args.sequences):
        raise ConfigError("--sequences must be 1 to 64 each")
    if not 0 <= args.answers <= 10_000:
        raise ConfigError(f"--answers must be 0 to 10000, not {args.answers}")
    settings = settings_from(args)
    from cutset.bench.schemas import fetch_suite, suite_schemas
    from cutset.bench.structured import run_structured

    suite = (
        [] if args.suite is None else list(suite_schemas(fetch_suite() if args.suite == "fetch" else Path(args.suite)))
    )
    rows = run_structured(
        args.model,
        settings,
        tokens=args.tokens,
        sequences=args.sequences,
        rounds=args.rounds,
        answers=args.answers,
        suite=suite,
        log=log,
    )
    print(rows_table(rows))
    save_rows(args, rows, threads=settings.thread_count, packages=["llguidance"])
    return 0
