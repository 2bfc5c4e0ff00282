"""`python -m benchmarks offload`: `cutset bench offload` with what masks cost beside the same model run here.

Two ratios of the rows that were measured in turns: tokens a second of decoding, pads made ahead, over those of `exact`
here; and the client's CPU seconds at the sites over those of `int8` here, which multiplies them all.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.targets import Target, targets_table
from cutset.cli import bench_offload
from cutset.cli.bench_offload import configure
from cutset.compare.results import Row

__all__ = ["DECODE", "SITES", "TARGETS", "configure", "ratios", "run"]

DECODE, SITES = "decode, over that of local exact", "client CPU at the sites, over that of local int8"
OF = {"decode": (DECODE, "cutset local exact"), "client CPU at the sites": (SITES, "cutset local int8")}
TARGETS = (
    Target("masked decode, over local exact, w246", DECODE, 0.97, True, "cutset masked over", "w246"),
    Target("client CPU at the sites, over local int8, layer7b", SITES, 0.15, False, "cutset masked+ver", "layer7b"),
)


def ratios(rows: Sequence[Row]) -> list[Row]:
    """Of what goes over a link, for each workload that was run here too."""
    known = {(row.workload, row.system, row.metric): row.value for row in rows}
    found = []
    for row in rows:
        name, local = OF.get(row.metric, ("", ""))
        value = known.get((row.workload, local, row.metric))
        if value and " over " in row.system:
            found.append(Row(row.workload, row.system, name, row.value / value, "x"))
    return found


def run(args: argparse.Namespace) -> int:
    rows = bench_offload.measured(args)
    rows += ratios(rows)
    bench_offload.show(args, rows)
    print(targets_table(rows, TARGETS))
    return 0
