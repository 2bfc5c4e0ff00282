"""`cutset bench`: what users measure of their own set-up, and result files compared (`diff`).

Comparisons with other programs, and BENCHMARKS.md, are made by `python -m benchmarks` in a checkout.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from cutset.cli import (
    bench_decode,
    bench_exchange,
    bench_link,
    bench_offload,
    bench_plan,
    bench_quality,
    bench_serve,
    bench_speculation,
    bench_stages,
    bench_stream,
    bench_structured,
    bench_video,
)
from cutset.cli.bench_rows import comparisons
from cutset.cli.output import table
from cutset.compare.diff import DiffLine, compare
from cutset.compare.metric_units import format_value
from cutset.compare.results import load

__all__ = ["BENCHES", "configure", "run"]

HEAD = ("verdict", "workload", "metric", "system", "against", "ratio in OLD", "in NEW", "change", "allowed", "note")
BENCHES = {
    "decode": bench_decode,
    "offload": bench_offload,
    "link": bench_link,
    "exchange": bench_exchange,
    "plan": bench_plan,
    "quality": bench_quality,
    "serve": bench_serve,
    "speculation": bench_speculation,
    "stages": bench_stages,
    "stream": bench_stream,
    "structured": bench_structured,
    "video": bench_video,
}
CHECKOUT = ("delta", "report")


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    diff = actions.add_parser(
        "diff",
        help="compare two result files by their ratios",
        description="Compares the ratios of ours to its opponents in two result files. "
        "Exits with 1 if one got worse by more than the tolerance, or went missing.",
        allow_abbrev=False,
    )
    diff.add_argument("old", metavar="OLD.json")
    diff.add_argument("new", metavar="NEW.json")
    diff.add_argument("--tolerance", type=float, default=0.1, help="worse by so much is the same (default 0.1)")
    diff.set_defaults(act=_diff)
    for name, module in BENCHES.items():
        parser = actions.add_parser(name, help=module.HELP, description=module.DESCRIPTION, allow_abbrev=False)
        module.configure(parser)
        parser.set_defaults(act=module.run)
    for name in CHECKOUT:
        # The arguments are for the other program to read: here no sign begins a flag.
        text = f"in a checkout: python -m benchmarks {name}"
        parser = actions.add_parser(name, help=text, add_help=False, prefix_chars="\0")
        parser.add_argument("rest", nargs=argparse.REMAINDER)
        parser.set_defaults(act=_in_checkout)


def run(args: argparse.Namespace) -> int:
    code: int = args.act(args)
    return code


def _diff(args: argparse.Namespace) -> int:
    comparison = compare(load(args.old), load(args.new), args.tolerance)
    print(table([HEAD, *map(_cells, comparison.lines)], right=(5, 6, 7, 8)))
    verdicts = ("regression", "gone", "improvement", "same", "new", "not comparable")
    print("\n" + ", ".join(f"{comparison.count(verdict)} {verdict}" for verdict in verdicts))
    return 1 if comparison.failed else 0


def _cells(line: DiffLine) -> tuple[str, ...]:
    old, new, change = ("–" if value is None else format_value(value) for value in (line.old, line.new, line.change))
    allowed = "–" if line.allowed is None else f"{line.allowed * 100:.0f} %"
    verdict = line.verdict.upper() if line.verdict in ("regression", "gone") else line.verdict
    return (verdict, line.workload, line.metric, line.system, line.against or "–", old, new, change, allowed, line.note)


def _in_checkout(args: argparse.Namespace) -> int:
    """Runs a benchmark that the package doesn't hold. Raises RequestError where this isn't a checkout."""
    root = Path(__file__).resolve().parents[3]
    if not (root / "benchmarks" / "__main__.py").is_file():
        raise comparisons(args.action)
    sys.path.insert(0, str(root))
    code: int = importlib.import_module("benchmarks.__main__").main([args.action, *args.rest])
    return code
