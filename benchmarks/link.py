"""`python -m benchmarks link`: every link beside the bare ring and bare ZeroMQ."""

from __future__ import annotations

import argparse

from benchmarks.wires import BARE, RING, ZEROMQ
from cutset.bench.link import named
from cutset.bench.wires import LINKS
from cutset.cli import bench_link
from cutset.cli.bench_link import configure

__all__ = ["TARGETS", "configure", "run"]

# size, ours, the other one, how many times shorter the round trip shall be
TARGETS = (
    (64, RING, ZEROMQ, 20.0),
    (64, "cutset shm", "cutset ipc", 5.0),
    (256 << 10, "cutset shm", "cutset ipc", 2.5),
)


def run(args: argparse.Namespace) -> int:
    rows = bench_link.measure(args, BARE | LINKS)
    trips = {(row.workload, row.system): row.value for row in rows if row.metric == "round trip"}
    for size, ours, other, wanted in TARGETS:
        pair = [trips.get((f"link {named(size)}", system)) for system in (ours, other)]
        if pair[0] and pair[1]:
            print(f"{named(size)}: {ours} {pair[1] / pair[0]:.1f}x shorter than {other}; to reach: {wanted:g}x")
    return 0
