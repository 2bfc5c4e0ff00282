"""Sixteen cameras over a worker that keeps up with eight: `python -m benchmarks cameras`.

Pictures of every camera are due at a rate, and the worker is behind an emulated link that carries half of them: so what
can be done at most is known. Measured are each camera's share of what was done, the age of results as a share of the
deadline, and by how much the memory of all processes grew from the end of the first quarter to the end.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.targets import Target, targets_table
from cutset.cli.bench_rows import rows_table, save_rows
from cutset.cli.options import add_json
from cutset.cli.output import log
from cutset.compare.results import Row
from cutset.partition.hop import Hop
from cutset.partition.plan import COORDINATOR
from cutset.stream import Stream
from cutset.video.sources import GeneratedSource
from cutset.video.summary import quantile

__all__ = ["TARGETS", "configure", "run", "run_cameras"]

SIZE = (64, 96)
SCENES = 50  # pictures of a camera, which are played again and again
SYSTEM = "cutset stream"
UNEVEN, AGE, GROWTH = "pictures of a camera, off the mean", "age at most, share of the deadline", "memory, growth"
DONE = "done, share of what the link carries"
TARGETS = (
    Target("each camera's pictures over their mean", UNEVEN, 0.1),
    Target("the oldest result over the deadline", AGE, 1.0),
    Target("memory after the first quarter", GROWTH, 0.05),
    Target("what is done over what could be", DONE, 0.85, least=True),
)


def run_cameras(cameras: int = 16, rate: float = 5.0, deadline: float = 0.5, seconds: float = 600.0) -> list[Row]:
    """So many cameras for so long, with a link that carries half of their pictures."""
    scenes = [[picture.pixels for picture in GeneratedSource(SIZE, seed=i, pictures=SCENES)] for i in range(cameras)]
    carries = rate * cameras / 2
    count = round(rate * seconds)
    sources = [itertools.islice(itertools.cycle(scene), count) for scene in scenes]
    nbytes = int(np.prod(scenes[0][0].shape))
    done: Counter[int] = Counter()
    ages: list[float] = []
    dropped = 0
    memory: list[int] = []
    with Stream(
        "alexnet",
        *sources,
        workers=1,
        scheduler="even",
        features=True,
        mode="full",
        rate=rate,
        deadline=deadline,
        paces={(COORDINATOR, "worker1"): Hop(bandwidth=nbytes * carries)},
    ) as stream:
        local = stream.local
        assert local is not None
        pids = [os.getpid(), *(local.process(name).pid for name in local.names)]
        begun = looked = time.monotonic()
        for result in stream:
            if result.dropped:
                dropped += 1
            else:
                done[result.source] += 1
                ages.append(result.age)
            if result.done - looked > seconds / 60:
                looked = result.done
                memory.append(sum(map(resident, pids)))
                counts = f"{sum(done.values())} done, {dropped} dropped"
                log(f"cameras: {looked - begun:.0f} s, {counts}, {memory[-1] >> 20} MiB")
        spent = time.monotonic() - begun
    mean = sum(done.values()) / cameras
    off = max(abs(done[i] - mean) / mean for i in range(cameras))
    quarter = memory[len(memory) // 4 :]
    name = f"{cameras} cameras of {rate:g}/s for {seconds:g} s, {carries:g}/s can be done"
    return [
        Row(name, SYSTEM, UNEVEN, off, "rel"),
        Row(name, SYSTEM, AGE, max(ages) / deadline, "rel"),
        Row(name, SYSTEM, "age, median", quantile(ages, 0.5), "s"),
        Row(name, SYSTEM, DONE, sum(done.values()) / (carries * min(spent, seconds)), "x"),
        Row(name, SYSTEM, "dropped", float(dropped), "pictures"),
        Row(name, SYSTEM, GROWTH, max(quarter) / quarter[0] - 1 if quarter else 0.0, "rel"),
    ]


def resident(pid: int) -> int:
    """Bytes that a process has in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cameras", type=int, default=16, metavar="N", help="(default 16)")
    parser.add_argument("--rate", type=float, default=5.0, metavar="R", help="pictures a second of each (default 5)")
    parser.add_argument("--deadline", type=float, default=0.5, metavar="S", help="of a picture (default 0.5)")
    parser.add_argument("--seconds", type=float, default=600.0, metavar="S", help="how long (default 600)")
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    rows = run_cameras(args.cameras, args.rate, args.deadline, args.seconds)
    print(rows_table(rows), end="\n\n")
    print(targets_table(rows, TARGETS))
    save_rows(args, rows, threads=1)
    return 0
