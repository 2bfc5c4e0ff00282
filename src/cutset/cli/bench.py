"""`cutset bench diff` and `cutset bench report`: result files compared, and shown."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from pathlib import Path

from cutset.bench.diff import Line, compare
from cutset.bench.files import write_atomically
from cutset.bench.report import format_value, report
from cutset.bench.results import Results, Row, load, machine, save
from cutset.bench.units import higher_is_better
from cutset.cli.options import add_json, add_settings, settings_from
from cutset.cli.output import table
from cutset.errors import RequestError

__all__ = ["configure", "run"]

HEAD = ("verdict", "workload", "metric", "system", "against", "ratio in OLD", "in NEW", "change", "allowed", "note")


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
    decode = actions.add_parser(
        "decode",
        help="Cutset and other programs on the same weights",
        description="Times Cutset, transformers, torch.compile, CTranslate2 and llama.cpp in turns on random models. "
        "Opponents that aren't installed are left out, and named.",
        allow_abbrev=False,
    )
    decode.add_argument("--workload", action="append", choices=("tiny", "minimind", "w246"), help="default: all")
    decode.add_argument("--system", action="append", metavar="NAME", help="only these, as `native int8`; default: all")
    decode.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds that count (default 5)")
    decode.add_argument("--python", metavar="FILE", help="the Python that has the opponents (default: this one)")
    add_json(decode, "the figures")
    add_settings(decode, "threads")
    decode.set_defaults(act=_decode)


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


def _decode(args: argparse.Namespace) -> int:
    import tempfile

    from cutset.bench.decode import WORKLOADS, run_workload

    settings, rows, versions = settings_from(args), list[Row](), dict[str, str]()
    if args.rounds < 1:
        raise RequestError(f"--rounds must be at least 1, not {args.rounds}")
    python = args.python or sys.executable
    for name in args.workload or WORKLOADS:
        workload = WORKLOADS[name]
        with tempfile.TemporaryDirectory() as folder:
            workload.model.write_checkpoint(Path(folder) / name)
            found, seen = run_workload(
                workload,
                Path(folder) / name,
                threads=settings.thread_count,
                rounds=args.rounds,
                python=python,
                wanted=args.system or workload.systems,
                tell=lambda line: print(line, file=sys.stderr),
            )
        rows += found
        versions |= seen
        print(rows_table(found), end="\n\n", flush=True)
    if args.json:
        here = machine(settings.thread_count)
        here = dataclasses.replace(here, versions=dict(here.versions) | versions)
        save(Results(shlex.join(["cutset", *sys.argv[1:]]), here, tuple(rows)), args.json)
    return 0


def rows_table(rows: list[Row]) -> str:
    """Rows as a table, each figure beside its share of the best opponent's."""
    shown = [("workload", "metric", "system", "median", "unit", "spread", "to the best opponent")]
    for row in rows:
        others = [r.value for r in rows if (r.workload, r.metric) == (row.workload, row.metric) and not r.ours]
        ratio = "–"
        if row.ours and others and "share" not in row.metric:
            better = higher_is_better(row.unit, row.metric)
            ratio = f"{row.value / max(others):.2f}x" if better else f"{min(others) / row.value:.2f}x"
        spread = "–" if row.spread is None else f"{row.spread:.1%}"
        shown.append((row.workload, row.metric, row.system, format_value(row.value), row.unit, spread, ratio))
    return table(shown, right=(3, 5, 6))


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
