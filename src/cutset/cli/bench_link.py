"""`cutset bench link`: round trips and bandwidth over every link."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cutset.cli.bench_rows import add_rounds, comparisons, save_rows, tell
from cutset.cli.options import add_json
from cutset.cli.output import table
from cutset.compare.metric_units import format_value
from cutset.compare.results import Row
from cutset.errors import RequestError

if TYPE_CHECKING:
    from cutset.bench.wires import Opener

__all__ = ["DESCRIPTION", "HELP", "configure", "measure", "run"]

HELP = "round trips and bandwidth over every link"
DESCRIPTION = (
    "Sends messages of several sizes to another process and back, over shm, ipc and tcp. They take turns. Nothing else "
    "may run meanwhile. In a checkout `python -m benchmarks link` puts the bare ring and bare ZeroMQ beside them."
)


def configure(parser: argparse.ArgumentParser) -> None:
    add_rounds(parser)
    parser.add_argument("--size", type=int, action="append", metavar="BYTES", help="default: 64 B to 16 MiB")
    parser.add_argument("--system", action="append", metavar="NAME", help="only these, as `cutset shm`; default: all")
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    from cutset.bench.wires import LINKS

    if unknown := [system for system in args.system or () if system not in LINKS]:
        raise comparisons("link", f"--system {unknown[0]!r} isn't one of: {', '.join(LINKS)}")
    measure(args, LINKS)
    return 0


def measure(args: argparse.Namespace, openers: Mapping[str, Opener]) -> list[Row]:
    """Times the links that were asked for, prints and saves the figures."""
    import zmq

    from cutset.bench.link import SIZES, named, run_sizes

    sizes, systems = tuple(args.size or SIZES), tuple(args.system or openers)
    if wrong := [size for size in sizes if not 1 <= size <= 1 << 28]:
        raise RequestError(f"--size must be between 1 and {1 << 28} bytes, not {wrong[0]}")
    if unknown := [system for system in systems if system not in openers]:
        raise RequestError(f"--system {unknown[0]!r} isn't one of: {', '.join(openers)}")
    rows, counts = run_sizes(sizes, {system: openers[system] for system in systems}, args.rounds, tell)
    print(_table(rows, [named(size) for size in sizes], systems))
    print(f"\nround trips timed for each figure: {min(counts.values())} to {max(counts.values())}")
    save_rows(args, rows, threads=2, versions={"pyzmq": zmq.__version__, "zmq": zmq.zmq_version()})
    return rows


def _table(rows: Sequence[Row], sizes: Sequence[str], systems: Sequence[str]) -> str:
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
