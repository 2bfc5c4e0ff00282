"""BENCHMARKS.md from result files: the same files give the same text, and a loss is marked as plainly as a win."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path

from cutset.compare.metric_units import format_value, higher_is_better
from cutset.compare.results import Results, Row, load
from cutset.errors import ConfigError
from cutset.files import write_atomically

__all__ = ["configure", "report", "run"]

HEAD = """# Benchmarks

Made by `python -m benchmarks report` from the files in `{folder}`; don't edit it. Below each head stands the command
line as it was recorded. Comparisons with other programs, faults and hostile clients are `python -m benchmarks` today
where the line names a script or `cutset bench`, with the same arguments (`neighbours` for `offload --workload
neighbours`).

A figure is the median of its repetitions, with half the range between the quartiles behind it. *Ours ÷ best* divides
our best system by the best opponent of the same row, so that above 1 we are better, whatever the unit. *Even* means
that the difference is within the spread of the two. Ratios carry over to other machines; times don't.
"""
EMPTY = """
There are no results yet. A command that measures writes them with `--json {folder}/NAME.json`.
"""


def report(folder: str | os.PathLike[str]) -> str:
    """The text of BENCHMARKS.md for every *.json in `folder`, of which there may be none.

    Raises `ConfigError` for a missing folder, a malformed file and a unit that isn't known.
    """
    if not os.path.isdir(folder):
        raise ConfigError(f"{os.fspath(folder)!r} is not a directory of result files")
    files = sorted(Path(folder).glob("*.json"), key=lambda path: path.name)
    shown = Path(folder).as_posix()
    parts = [HEAD.format(folder=shown)]
    parts += [_section(path.stem, load(path)) for path in files] or [EMPTY.format(folder=shown)]
    return "".join(parts)


def _section(name: str, results: Results) -> str:
    at = results.machine
    versions = ", ".join(f"{name} {version}" for name, version in sorted(at.versions.items()))
    lines = [
        "",
        f"## {_cell(name)}",
        "",
        f"    {_one_line(results.command)}",
        "",
        f"{_cell(at.cpu)}, {at.cores} {'core' if at.cores == 1 else 'cores'}, "
        f"{at.threads} {'thread' if at.threads == 1 else 'threads'}; {_cell(versions)}",
    ]
    metrics = dict.fromkeys((row.metric, row.unit) for row in results.rows)
    for metric, unit in metrics:
        lines += _table(metric, unit, [row for row in results.rows if (row.metric, row.unit) == (metric, unit)])
    if not results.rows:
        lines += ["", "No rows."]
    return "\n".join(lines) + "\n"


def _table(metric: str, unit: str, rows: Sequence[Row]) -> list[str]:
    """Workloads down, systems across: ours first, each in the order of the file."""
    higher = higher_is_better(unit, metric)
    systems = sorted(dict.fromkeys(row.system for row in rows), key=lambda system: not system.startswith("cutset"))
    contest = len({row.ours for row in rows}) == 2
    head = ["workload", *systems] + ["ours ÷ best"] * contest
    lines = [
        "",
        f"### {_cell(metric)} ({_cell(unit)}, {'more' if higher else 'less'} is better)",
        "",
        _line(head),
        "|" + "---|" + "---:|" * (len(head) - 1),
    ]
    for workload in dict.fromkeys(row.workload for row in rows):
        found = {row.system: row for row in rows if row.workload == workload}
        cells = [workload, *(_figure(found[system]) if system in found else "–" for system in systems)]
        lines.append(_line(cells + [_ratio(list(found.values()), higher)] * contest))
    return lines


def _ratio(rows: Sequence[Row], higher: bool) -> str:
    pick = max if higher else min
    ours, others = [row for row in rows if row.ours], [row for row in rows if not row.ours]
    if not ours or not others:
        return "–"
    mine, best = pick(ours, key=lambda row: row.value), pick(others, key=lambda row: row.value)
    over, under = (mine.value, best.value) if higher else (best.value, mine.value)
    pair = (f"{mine.system} : " if len(ours) > 1 else "") + best.system
    if over < 0 or under < 0 or (over == 0 and under == 0):
        return f"– ({pair})"
    ratio = over / under if under else math.inf
    noise = max(0.005, math.hypot(mine.spread or 0.0, best.spread or 0.0))  # 1.00× is even
    word = "even" if 1 / (1 + noise) <= ratio <= 1 + noise else "**win**" if ratio > 1 else "**loss**"
    return f"{format_value(ratio)}× {word} ({pair})"


def _figure(row: Row) -> str:
    spread = "" if row.spread is None else f" ±{row.spread * 100:.1f} %"
    return format_value(row.value) + spread


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _one_line(text: str) -> str:
    """A command line may hold a whole prompt, with line ends and whatever else."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= 300 else text[:299] + "…"


def _cell(text: str) -> str:
    """Text that Markdown takes as it is; asterisks stay, the ratio's own are meant."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`").replace("_", "\\_")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", default="benchmarks", help="the directory of the result files (default benchmarks)")
    parser.add_argument("--output", metavar="FILE", default="BENCHMARKS.md", help="default BENCHMARKS.md")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the file is out of date")


def run(args: argparse.Namespace) -> int:
    text, output = report(args.dir), Path(args.output)
    if not args.check:
        write_atomically(output, text)
        return 0
    if output.is_file() and output.read_bytes() == text.encode():
        print(f"{output} is up to date")
        return 0
    print(f"{output} differs from what {args.dir} says: run `python -m benchmarks report`")
    return 1
