"""`cutset bench link`: round trips and bandwidth over every link."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys

from cutset.bench.report import format_value
from cutset.cli.options import add_json
from cutset.cli.output import table
from cutset.compare.results import Results, Row, machine, save
from cutset.errors import RequestError

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "round trips and bandwidth over every link"
DESCRIPTION = (
    "Sends messages of several sizes to another process and back: over shm, ipc and tcp, and beside them over the bare "
    "ring and bare ZeroMQ. The systems take turns. Nothing else may run meanwhile."
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds that count (default 5)")
    parser.add_argument("--size", type=int, action="append", metavar="BYTES", help="default: 64 B to 16 MiB")
    parser.add_argument("--system", action="append", metavar="NAME", help="only these, as `cutset shm`; default: all")
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    import zmq

    from cutset.bench.link import SIZES, TARGETS, named, run_sizes
    from cutset.bench.wires import SYSTEMS

    sizes, systems = tuple(args.size or SIZES), tuple(args.system or SYSTEMS)
    if args.rounds < 1:
        raise RequestError(f"--rounds must be at least 1, not {args.rounds}")
    if wrong := [size for size in sizes if not 1 <= size <= 1 << 28]:
        raise RequestError(f"--size must be between 1 and {1 << 28} bytes, not {wrong[0]}")
    if unknown := [system for system in systems if system not in SYSTEMS]:
        raise RequestError(f"--system {unknown[0]!r} isn't one of: {', '.join(SYSTEMS)}")
    rows, counts = run_sizes(sizes, systems, args.rounds, lambda line: print(line, file=sys.stderr))
    print(_table(rows, [named(size) for size in sizes], systems))
    print(f"\nround trips timed for each figure: {min(counts.values())} to {max(counts.values())}")
    by_key = {(row.workload, row.system): row.value for row in rows if row.metric == "round trip"}
    for size, ours, other, wanted in TARGETS:
        pair = [by_key.get((f"link {named(size)}", system)) for system in (ours, other)]
        if pair[0] and pair[1]:
            print(f"{named(size)}: {ours} {pair[1] / pair[0]:.1f}x shorter than {other}; to reach: {wanted:g}x")
    if args.json:
        here = machine(2)
        here = dataclasses.replace(
            here, versions=dict(here.versions) | {"pyzmq": zmq.__version__, "zmq": zmq.zmq_version()}
        )
        save(Results(shlex.join(["cutset", *sys.argv[1:]]), here, tuple(rows)), args.json)
    return 0


def _table(rows: list[Row], sizes: list[str], systems: tuple[str, ...]) -> str:
    """A line for each size and system: median and p99 of the round trip, bandwidth one way."""
    by_key = {row.key: row for row in rows}
    shown = [("size", "system", "round trip", "spread", "p99", "one way")]
    for size in sizes:
        for system in systems:
            found = [
                by_key.get((f"link {size}", metric, system)) for metric in ("round trip", "round trip p99", "one way")
            ]
            if found[0] and found[1] and found[2]:
                spread = "–" if found[0].spread is None else f"{found[0].spread:.0%}"
                cells = [f"{format_value(row.value)} {row.unit}" for row in found if row]
                shown.append((size, system, cells[0], spread, cells[1], cells[2]))
    return table(shown, right=(2, 3, 4, 5))
