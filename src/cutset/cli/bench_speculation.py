"""`cutset bench speculation`: what drafts from the text itself bring, with links that aren't there."""

from __future__ import annotations

import argparse

from cutset.cli.bench_rows import add_rounds, rows_table, save_rows
from cutset.cli.options import add_json, add_settings, settings_from
from cutset.cli.output import log
from cutset.errors import ConfigError

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "decoding with --speculate ngram beside decoding without"
DESCRIPTION = (
    "Decodes a text that repeats itself and one that doesn't, with --speculate ngram and without, in turns: tokens a "
    "second, and the median of their ratios. --hop makes each step take longer, as links between stages would."
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", nargs="?", default="story", help="as in `generate` (default story)")
    parser.add_argument("--hop", type=float, default=0.0, metavar="MS", help="milliseconds added to a step (default 0)")
    parser.add_argument("--tokens", type=int, default=128, metavar="N", help="of each answer (default 128)")
    add_rounds(parser)
    add_json(parser, "the figures")
    add_settings(parser, "backend", "dtype", "threads", "speculate_tokens")


def run(args: argparse.Namespace) -> int:
    if not 0 <= args.hop <= 10_000:
        raise ConfigError(f"--hop must be 0 to 10000 milliseconds, not {args.hop:g}")
    if not 2 <= args.tokens <= 100_000:
        raise ConfigError(f"--tokens must be 2 to 100000, not {args.tokens}")
    settings = settings_from(args)
    from cutset.bench.speculation import run_speculation

    rows = run_speculation(args.model, settings, hop=args.hop / 1e3, tokens=args.tokens, rounds=args.rounds, log=log)
    print(rows_table(rows))
    save_rows(args, rows, threads=settings.thread_count)
    return 0
