"""`cutset bench offload`: every mode beside the same model run here."""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from pathlib import Path

from cutset.cli.bench_rows import add_rounds, comparisons, rows_table, save_rows
from cutset.cli.options import add_json, output_file
from cutset.cli.output import log, table
from cutset.compare.results import Row
from cutset.errors import RequestError

__all__ = ["DESCRIPTION", "HELP", "configure", "measured", "run", "show"]

HELP = "every mode of an offload beside the same model run here"
DESCRIPTION = (
    "Runs a model in every mode over one link, and locally, in turns: tokens a second, time by part, client CPU with "
    "and without the making of pads, bytes and calls. Says where running it here is faster."
)
CLIENTS = ("plain", "masked+verified")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a directory instead of the random models")
    parser.add_argument(
        "--workload",
        action="append",
        choices=("w246", "layer7b", "w246-4k", "clients", "neighbours"),
        help="default: all but neighbours, which is in a checkout alone: `python -m benchmarks neighbours`",
    )
    parser.add_argument("--prompt", type=int, default=128, metavar="N", help="with MODEL: tokens of the prompt")
    parser.add_argument("--decode", type=int, default=32, metavar="N", help="with MODEL: tokens to generate")
    parser.add_argument("--system", action="append", metavar="NAME", help="only these, as exact or masked+verified")
    parser.add_argument("--link", choices=("shm", "ipc"), default="shm", help="default shm")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of each party (default 1)")
    parser.add_argument("--device", default="cpu", metavar="cpu|cuda:N", help="of the accelerator (default cpu)")
    add_rounds(parser)
    parser.add_argument("--clients", type=int, default=8, metavar="N", help="clients at once (default 8)")
    parser.add_argument("--plot", type=output_file, metavar="FILE", help="draw the time by part to a PNG or SVG")
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    show(args, measured(args))
    return 0


def measured(args: argparse.Namespace) -> list[Row]:
    """The rows that are asked for. Raises RequestError."""
    from cutset.bench.offload import (
        SYSTEMS,
        WORKLOADS,
        Setting,
        Workload,
        integer_checkpoint,
        run_clients,
        run_workload,
    )

    if args.prompt < 1 or args.decode < 1 or args.clients < 1 or args.threads < 1:
        raise RequestError("--prompt, --decode, --clients and --threads must be at least 1")
    if "neighbours" in (args.workload or ()):
        raise comparisons("neighbours")
    setting = Setting(args.threads, args.rounds, args.link, args.device, log)
    rows: list[Row] = []
    if args.model:
        from cutset.config import load_settings
        from cutset.models.registry import resolve

        found = resolve(args.model, load_settings())
        systems = tuple(args.system) if args.system else SYSTEMS
        systems = tuple(system for system in systems if system != "float32")
        workload = Workload(found.name, None, args.prompt, args.decode, systems, args.prompt + args.decode + 16)
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / "model"
            link.symlink_to(found.directory.resolve())
            rows += run_workload(workload, link, setting)
    else:
        for name in args.workload or (*WORKLOADS, "clients"):
            workload = WORKLOADS["w246" if name == "clients" else name]
            if args.system:
                workload = dataclasses.replace(workload, systems=tuple(args.system))
            model = workload.model
            assert model is not None
            if "CUTSET_ISA" in os.environ:  # other kernels are another workload
                workload = dataclasses.replace(workload, name=f"{workload.name}, {os.environ['CUTSET_ISA']}")
            with integer_checkpoint(model) as folder_path:
                if name == "clients":
                    rows += run_clients(folder_path, setting, (1, args.clients), args.system or CLIENTS, 32)
                else:
                    rows += run_workload(workload, folder_path, setting)
    return rows


def show(args: argparse.Namespace, rows: list[Row]) -> None:
    """Prints them, and writes the files that are asked for."""
    print(rows_table([row for row in rows if not row.metric.startswith("time in")]), end="\n\n")
    print(_parts(rows))
    for line in _verdicts(rows):
        print(line)
    save_rows(args, rows, threads=args.threads, hidden={args.model: "MODEL"})
    if args.plot:
        from cutset.bench.offload_plot import plot

        plot(rows, Path(args.plot))


def _parts(rows: list[Row]) -> str:
    """Time by part as a table, milliseconds: a line for each system."""
    parts = [row for row in rows if row.metric.startswith("time in")]
    names = list(dict.fromkeys(row.metric.removeprefix("time in ") for row in parts))
    places = list(dict.fromkeys((row.workload, row.system) for row in parts))
    values = {(row.workload, row.system, row.metric.removeprefix("time in ")): row.value for row in parts}
    lines = [("time by part, ms", "", *names)]
    lines += [(w, s, *(f"{values.get((w, s, name), 0):.1f}" for name in names)) for w, s in places]
    return table(lines, right=range(2, 2 + len(names))) + "\n"


def _verdicts(rows: list[Row]) -> list[str]:
    """Where running the model here is faster, in plain words."""
    lines = []
    for workload in dict.fromkeys(row.workload for row in rows):
        here = {(r.system, r.metric): r.value for r in rows if r.workload == workload}
        for metric in ("prefill", "decode"):
            local = here.get(("cutset local exact", metric))
            for (system, name), value in here.items():
                if local and name == metric and " over " in system:
                    word = "faster" if value > local else "slower"
                    lines.append(f"{workload}, {metric}: {system} is {value / local:.2f}x local exact: {word}")
    return lines
