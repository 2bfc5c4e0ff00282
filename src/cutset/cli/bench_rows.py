"""What the commands of `cutset bench` and `python -m benchmarks` share: rounds, progress, tables, result files."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import sys
from collections.abc import Mapping, Sequence

from cutset.cli.output import printable, table
from cutset.compare.metric_units import format_value, higher_is_better
from cutset.compare.results import Results, Row, machine, save
from cutset.errors import ConfigError, RequestError

__all__ = ["add_rounds", "comparisons", "rows_table", "save_rows", "tell"]


def add_rounds(parser: argparse.ArgumentParser) -> None:
    """Adds `--rounds N`."""
    parser.add_argument("--rounds", type=_rounds, default=5, metavar="N", help="rounds that count (default 5)")


def _rounds(text: str) -> int:
    if (rounds := int(text)) < 1:
        raise ConfigError(f"--rounds must be at least 1, not {rounds}")
    return rounds


def comparisons(name: str, here: str = "") -> RequestError:
    """The error for what the package doesn't measure; `here` says what it does."""
    text = f"comparisons with other programs are run in a checkout of Cutset: python -m benchmarks {name}"
    return RequestError(f"{text}\n{here}" if here else text)


def tell(line: str) -> None:
    """Says how far a benchmark is, on stderr."""
    print(printable(line), file=sys.stderr, flush=True)


def rows_table(rows: Sequence[Row]) -> str:
    """Rows as a table, each figure beside its share of the best opponent's, where there is one."""
    shown = [("workload", "metric", "system", "median", "unit", "spread", "to the best opponent")]
    for row in rows:
        others = [r.value for r in rows if (r.workload, r.metric) == (row.workload, row.metric) and not r.ours]
        ratio = "–"
        if row.ours and others and "share" not in row.metric:
            better = higher_is_better(row.unit, row.metric)
            ratio = f"{row.value / max(others):.2f}x" if better else f"{min(others) / row.value:.2f}x"
        spread = "–" if row.spread is None else f"{row.spread:.1%}"
        shown.append((row.workload, row.metric, row.system, format_value(row.value), row.unit, spread, ratio))
    contest = any(line[6] != "–" for line in shown[1:])
    return table(shown if contest else [line[:6] for line in shown], right=(3, 5, 6))


def save_rows(
    args: argparse.Namespace,
    rows: Sequence[Row],
    *,
    threads: int,
    packages: Sequence[str] = (),
    versions: Mapping[str, str] | None = None,
    hidden: Mapping[str, str] | None = None,
) -> None:
    """Writes the result file that `--json` names, if it does, with the command line that made it.

    `versions` stand beside those of `packages`. `hidden`: words of the command line that say something about this
    machine alone, and what is written instead. Raises ConfigError.
    """
    if not args.json:
        return
    command = shlex.join([(hidden or {}).get(word, word) for word in args.command_line])
    if "CUTSET_ISA" in os.environ:
        command = f"CUTSET_ISA={os.environ['CUTSET_ISA']} {command}"
    here = machine(threads, packages)
    here = dataclasses.replace(here, versions=dict(here.versions) | dict(versions or {}))
    save(Results(command, here, tuple(rows)), args.json)
