"""`cutset bench delta`: the delta codec beside what others do with the same tensors."""

from __future__ import annotations

import argparse
import shlex
import sys

from cutset.cli.options import add_json
from cutset.cli.output import table
from cutset.errors import RequestError

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "the delta codec of a cut edge beside other codings"
DESCRIPTION = (
    "Encodes and decodes consecutive tensors of which 0, 1, 10, 30 and 100 % changed, on one core: the delta codec, "
    "the dense tensor, zstd of it, and compressed sparse rows by channel. Shows GB/s of dense tensor, and bytes."
)
METRICS = ("encode + decode", "encode", "decode", "bytes, of dense")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tensor", action="append", metavar="NAME", help="only this one; repeatable (default: all)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds that count (default 5)")
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    from cutset.bench.delta import TENSORS, run_delta
    from cutset.compare.results import Results, machine, save

    if args.rounds < 1:
        raise RequestError("--rounds must be at least 1")
    for name in args.tensor or ():
        if name not in TENSORS:
            raise RequestError(f"--tensor {name}: known are {', '.join(TENSORS)}")
    rows = list(run_delta(args.tensor or tuple(TENSORS), args.rounds, lambda line: print(line, file=sys.stderr)))
    values = {row.key: row.value for row in rows}
    places = dict.fromkeys((row.workload, row.system) for row in rows)
    head = ("workload", "system", "GB/s, encode + decode", "encode", "decode", "bytes, % of dense")
    lines = [(w, s, *(f"{values[w, metric, s]:.2f}" for metric in METRICS)) for w, s in places]
    print(table([head, *lines], right=range(2, 6)))
    if args.json:
        save(Results(shlex.join(["cutset", *sys.argv[1:]]), machine(1, ("zstandard",)), tuple(rows)), args.json)
    return 0
