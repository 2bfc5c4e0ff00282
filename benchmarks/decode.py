"""`python -m benchmarks decode`: Cutset and other people's programs on the same weights, in turns, in one run.

Everybody has the same number of threads; see `cutset.bench.turns`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import exported, opponents
from benchmarks.start import memory_rows, start_rows
from cutset.bench.decode import FLOAT, FOUR, HALF, INTEGER, OWN, WORKLOADS, System, Task, own_systems
from cutset.bench.offload import integer_checkpoint
from cutset.bench.turns import Process
from cutset.cli import bench_decode
from cutset.cli.bench_rows import rows_table, save_rows
from cutset.cli.options import settings_from
from cutset.cli.output import log
from cutset.compare.results import Row
from cutset.errors import RequestError

__all__ = ["OPPONENTS", "configure", "opponent_systems", "run"]

# llama.cpp rounds activations to the 16 bits of bf16 and f16 weights: it counts as float32 all the same, being what its
# users run such files with. transformers in bfloat16 rounds them everywhere, the residual stream too.
OPPONENTS = {
    "transformers": FLOAT,
    "transformers bfloat16": HALF,
    "torch.compile": FLOAT,
    "ctranslate2 float32": FLOAT,
    "llama.cpp f32": FLOAT,
    "llama.cpp bf16": FLOAT,
    "llama.cpp f16": FLOAT,
    "ctranslate2 int8": INTEGER,
    "llama.cpp q8_0": INTEGER,
    "openvino int8": INTEGER,
    "llama.cpp q4_0": FOUR,
    "openvino int4": FOUR,
    "onnxruntime-genai int4": FOUR,
}
EXPORTED = ("openvino", "onnxruntime-genai")


def pythons(given: Sequence[str] | None) -> Callable[[str], str]:
    """Which Python has a program, of `FILE` and `PROGRAM=FILE` as they were given; this one if nothing is said."""
    found = dict[str, str]()
    for each in given or ():
        program, _, file = each.rpartition("=")
        found[program] = file
    return lambda system: found.get(system.split(" ")[0]) or found.get("") or sys.executable


def opponent_systems(python: Callable[[str], str], threads: int) -> list[System]:
    """Those of OPPONENTS, each in the Python that has it installed."""

    def starter(name: str) -> Callable[[Path], Process]:
        def start(folder: Path) -> Process:
            file = exported.__file__ if name.startswith(EXPORTED) else opponents.__file__
            command = [python(name), file, name, str(folder), "--threads", str(threads)]
            return Process(command, name=name, threads=threads, quiet=True)

        return start

    def takes(name: str) -> Callable[[Task], bool]:
        if name == "torch.compile":  # it takes minutes to compile this once more
            return lambda task: task.command.get("sequences", 1) == 1 and task.command.get("prompt", 128) == 128
        return lambda task: task.command["do"] != "forward" or not name.startswith(("llama.cpp", *EXPORTED))

    return [System(name, weights, starter(name), takes(name)) for name, weights in OPPONENTS.items()]


def configure(parser: argparse.ArgumentParser) -> None:
    bench_decode.configure(parser)
    parser.epilog = (
        "--python [PROGRAM=]FILE, repeatable: the Python that has the opponents, or one of them, as "
        "openvino=/opt/ov/bin/python (default: this one); those it lacks are left out."
    )


def run(args: argparse.Namespace) -> int:
    threads, python = settings_from(args).thread_count, pythons(args.python)
    known = [*OWN, *OPPONENTS]
    if unknown := [name for name in args.system or () if name not in known]:
        raise RequestError(f"--system {unknown[0]!r} isn't one of: {', '.join(known)}")
    others = opponent_systems(python, threads)
    systems = own_systems(args.system or OWN, threads)
    systems += [system for system in others if not args.system or system.label in args.system]
    names = args.workload or [*WORKLOADS, "start"]
    rows, versions = bench_decode.measure([name for name in names if name != "start"], systems, args.rounds)
    if "start" in names:
        found = _start(threads, args.rounds, python("llama.cpp"))
        print(rows_table(found))
        rows += found
    # Where the opponents' Python lies says nothing to whoever reads the result.
    save_rows(args, rows, threads=threads, versions=versions, hidden=dict.fromkeys(args.python or (), "PYTHON"))
    return 0


def _start(threads: int, rounds: int, python: str) -> list[Row]:
    """From process start to the first token, and memory at rest, on w246."""
    with integer_checkpoint(WORKLOADS["w246"].model) as integers:
        floats, gguf = integers.with_name("floats"), integers.with_name("w246.gguf")
        writer = [python, opponents.__file__, "llama.cpp q8_0", str(floats), "--write-gguf", str(gguf)]
        done = subprocess.run(writer, capture_output=True, check=False)
        there = done.returncode == 0 and gguf.is_file()
        rows = start_rows(integers, gguf if there else None, python, threads, rounds, log)
        rows += memory_rows("w246", floats, "native float32", threads)
        rows += memory_rows("w246-int8", integers, "native int8", threads)
    return rows
