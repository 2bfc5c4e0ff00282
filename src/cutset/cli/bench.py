"""`cutset bench`: result files compared (`diff`) and shown (`report`), and the benchmarks that write them."""

from __future__ import annotations

import argparse
from pathlib import Path

from cutset.bench.report import format_value, report
from cutset.cli import (
    bench_decode,
    bench_delta,
    bench_exchange,
    bench_link,
    bench_offload,
    bench_quality,
    bench_serve,
    bench_stream,
)
from cutset.cli.output import table
from cutset.compare.diff import Line, compare
from cutset.compare.results import load
from cutset.files import write_atomically

__all__ = ["configure", "run"]

HEAD = ("verdict", "workload", "metric", "system", "against", "ratio in OLD", "in NEW", "change", "allowed", "note")
BENCHES = {
    "decode": bench_decode,
    "offload": bench_offload,
    "link": bench_link,
    "delta": bench_delta,
    "exchange": bench_exchange,
    "quality": bench_quality,
    "serve": bench_serve,
    "stream": bench_stream,
}


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
    make = actions.add_parser(
        "report",
        help="write BENCHMARKS.md from benchmarks/*.json",
        description="Writes BENCHMARKS.md from every result file in a directory.",
        allow_abbrev=False,
    )
    make.add_argument("--dir", default="benchmarks", help="the directory of the result files (default benchmarks)")
    make.add_argument("--output", metavar="FILE", default="BENCHMARKS.md", help="default BENCHMARKS.md")
    make.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the file is out of date")
    make.set_defaults(act=_report)
    for name, module in BENCHES.items():
        parser = actions.add_parser(name, help=module.HELP, description=module.DESCRIPTION, allow_abbrev=False)
        module.configure(parser)
        parser.set_defaults(act=module.run)


def run(args: argparse.Namespace) -> int:
    code: int = args.act(args)
    return code


def _diff(args: argparse.Namespace) -> int:
    comparison = compare(load(args.old), load(args.new), args.tolerance)
    print(table([HEAD, *map(_cells, comparison.lines)], right=(5, 6, 7, 8)))
    verdicts = ("regression", "gone", "improvement", "same", "new", "not comparable")
    print("\n" + ", ".join(f"{comparison.count(verdict)} {verdict}" for verdict in verdicts))
    return 1 if comparison.failed else 0


def _cells(line: Line) -> tuple[str, ...]:
    old, new, change = ("–" if value is None else format_value(value) for value in (line.old, line.new, line.change))
    allowed = "–" if line.allowed is None else f"{line.allowed * 100:.0f} %"
    verdict = line.verdict.upper() if line.verdict in ("regression", "gone") else line.verdict
    return (verdict, line.workload, line.metric, line.system, line.against or "–", old, new, change, allowed, line.note)


def _report(args: argparse.Namespace) -> int:
    text, output = report(args.dir), Path(args.output)
    if not args.check:
        write_atomically(output, text)
        return 0
    if output.is_file() and output.read_bytes() == text.encode():
        print(f"{output} is up to date")
        return 0
    print(f"{output} differs from what {args.dir} says: run `cutset bench report`")
    return 1
