"""`cutset bench decode`: Cutset and other programs on the same weights."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from pathlib import Path

from cutset.bench.report import format_value
from cutset.cli.options import add_json, add_settings, settings_from
from cutset.cli.output import table
from cutset.compare.results import Results, Row, machine, save
from cutset.compare.units import higher_is_better
from cutset.errors import RequestError

__all__ = ["DESCRIPTION", "HELP", "configure", "rows_table", "run"]

HELP = "Cutset and other programs on the same weights"
DESCRIPTION = (
    "Times Cutset, transformers, torch.compile, CTranslate2 and llama.cpp in turns on random models. "
    "Opponents that aren't installed are left out, and named."
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workload", action="append", choices=("tiny", "minimind", "w246", "start"), help="default: all"
    )
    parser.add_argument("--system", action="append", metavar="NAME", help="only these, as `native int8`; default: all")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds that count (default 5)")
    parser.add_argument("--python", metavar="FILE", help="the Python that has the opponents (default: this one)")
    add_json(parser, "the figures")
    add_settings(parser, "threads")


def run(args: argparse.Namespace) -> int:
    import tempfile

    from cutset.bench.decode import WORKLOADS, run_workload

    settings, rows, versions = settings_from(args), list[Row](), dict[str, str]()
    if args.rounds < 1:
        raise RequestError(f"--rounds must be at least 1, not {args.rounds}")
    python = args.python or sys.executable
    for name in args.workload or (*WORKLOADS, "start"):
        if name == "start":
            rows += (found := _start(settings.thread_count, args.rounds, python))
            print(rows_table(found), end="\n\n", flush=True)
            continue
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
        # Where the opponents' Python lies says nothing to whoever reads the result.
        words = ["PYTHON" if word == args.python else word for word in ["cutset", *sys.argv[1:]]]
        save(Results(shlex.join(words), here, tuple(rows)), args.json)
    return 0


def _start(threads: int, rounds: int, python: str) -> list[Row]:
    """From process start to the first token, and memory at rest, on w246."""
    import subprocess
    import tempfile

    from cutset.bench import opponents
    from cutset.bench.decode import WORKLOADS
    from cutset.bench.start import memory_rows, start_rows
    from cutset.models.files.integer import write_integer_checkpoint
    from cutset.models.files.source import open_source

    with tempfile.TemporaryDirectory() as name:
        floats, integers, gguf = (Path(name) / kind for kind in ("w246", "w246-int8", "w246.gguf"))
        WORKLOADS["w246"].model.write_checkpoint(floats)
        source = open_source(floats)
        write_integer_checkpoint(source.spec, source.config, source.tensors, floats, integers)
        writer = [python, opponents.__file__, "llama.cpp q8_0", str(floats), "--write-gguf", str(gguf)]
        done = subprocess.run(writer, capture_output=True, check=False)
        there = done.returncode == 0 and gguf.is_file()

        def tell(line: str) -> None:
            print(line, file=sys.stderr)

        rows = start_rows(integers, gguf if there else None, python, threads, rounds, tell)
        for folder, kind in ((floats, "float32"), (integers, "int8")):
            size = (folder / "model.safetensors").stat().st_size
            rows += memory_rows(folder, python, threads, (f"native {kind}",), size)
    return rows


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
