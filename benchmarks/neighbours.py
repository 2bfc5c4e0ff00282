"""What hostile clients of an accelerator leave to a client that behaves: `python -m benchmarks neighbours`.

A client decodes alone, beside n clients that want nothing, and beside n hostile ones, in turns. Undisturbed is its rate
beside those that want nothing: where more parties than cores are at work, nobody spins while it waits. What is due to
it: beside *greedy* ones, which want as many products as they can get and take their answers, 1 / (n + 1) of that.
Beside *deaf* ones, which never take an answer, all of it once they have had time to fill their queues: such a client is
entitled to nothing more. Beside *stubborn* ones, which are deaf and dial again whenever their link is ended,
1 / (n + 1): every link has a queue. A figure is the rate as a share of what is due.

What a figure must not depend on:
- the hostile ones' own cores. They run when the machine has nothing else to do, as if they were on machines of their
  own, and one whose queues are full doesn't look for room all the time. But where something else keeps the cores busy
  they come to nothing, and every rate looks good, however unfair the accelerator is: so a rate beside which others than
  this benchmark took more than a part of a core is measured again, each hostile one must have been heard meanwhile, and
  otherwise there are no figures.
- a cache that holds all weights. The model has 810 MB of them, as models that are worth an offload don't fit. With 45
  MB an undisturbed client reads weights from the last-level cache at more than twice the speed of memory, which ends
  once anybody else's rows and answers go through that cache. No order of turns gives that back, and none takes it away.
- what the machine was like a minute ago: each rate beside hostile ones comes right after the undisturbed one.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import hostile
from benchmarks.hostile import IDLE, KINDS
from benchmarks.others import Others
from benchmarks.targets import Target, targets_table
from cutset.bench.offload import (
    Setting,
    Workload,
    accelerator,
    client_process,
    integer_checkpoint,
    label,
    run_one,
)
from cutset.bench.turns import Process
from cutset.cli.bench_rows import add_rounds, rows_table, save_rows
from cutset.cli.options import add_json
from cutset.cli.output import log
from cutset.compare.results import Row, summarise
from cutset.errors import EngineError
from cutset.link.keys import new_keys, save_keys
from cutset.models.families import load_spec
from cutset.models.random import RandomModel

__all__ = ["COUNTS", "LINKS", "SHARE", "TARGETS", "configure", "run", "run_neighbours"]

LINKS = ("shm", "ipc", "tcp")
COUNTS = (1, 8)  # hostile clients
MODEL = RandomModel(
    hidden=1024, layers=72, heads=16, kv_heads=4, intermediate=2816, vocab=4096, max_pos=2048, tied=False
)
BEGIN = {IDLE: 0.5, "greedy": 0.5, "deaf": 4.0, "stubborn": 0.5}  # seconds that hostile ones have before it counts
WORKLOAD = Workload("neighbours", MODEL, 8, 25, ("plain",), context=512)
OTHERS = 0.15  # cores that processes of others may take meanwhile
TRIES = 5
SITE = "gate_up"  # what the hostile ones multiply with: the largest of a layer
SHARE = "rate, share of what is due"
IDLING = "rate, share of that alone"
TARGETS = (Target("a neighbour's rate over what is due to it", SHARE, 0.9, least=True),)


def run_neighbours(setting: Setting, links: Sequence[str] = LINKS, kinds: Sequence[str] = KINDS) -> list[Row]:
    """Shares of what is due, and the rates alone. Raises EngineError where a client ended."""
    rows: list[Row] = []
    with integer_checkpoint(MODEL) as folder:
        keys = folder.parent / "keys"
        for name in ("server", "client", "neighbour"):
            save_keys(new_keys(), name, keys)
        for link in links:
            rows += _over(replace(setting, link=link), folder, keys if link == "tcp" else None, kinds)
    return rows


def _over(setting: Setting, folder: Path, keys: Path | None, kinds: Sequence[str] = KINDS) -> list[Row]:
    alone: list[float] = []
    found: dict[tuple[str, int], list[float]] = {(kind, n): [] for kind in (IDLE, *kinds) for n in COUNTS}
    with (
        accelerator(folder, setting, keys) as address,
        _neighbour(setting, folder, address, keys) as client,
        _neighbours(IDLE, folder, address, keys) as idle,
    ):
        for kind in kinds:
            with _neighbours(kind, folder, address, keys) as neighbours:
                for _ in range(setting.rounds):
                    alone.append(_rate(client))
                    result = [f"alone {alone[-1]:.1f}"]
                    for n in COUNTS:
                        undisturbed, rate = _pair(client, idle[:n], neighbours[:n], kind)
                        found[IDLE, n].append(undisturbed / alone[-1])
                        found[kind, n].append(rate / undisturbed * (1 if kind == "deaf" else n + 1))
                        result.append(f"{n} idle {undisturbed:.1f}, {n} {kind} {rate:.1f}")
                    setting.log(f"{setting.link}, tok/s: {'; '.join(result)}")
    name = "offload neighbours"
    system = label("plain", setting)
    rows = [summarise(f"{name}, alone", system, "decode", alone, "tok/s")]
    for (kind, n), shares in found.items():
        rows.append(summarise(f"{name}, {n} {kind}", system, IDLING if kind == IDLE else SHARE, shares, "x"))
    return rows


def _rate(client: Process) -> float:
    """Tokens a second of decoding."""
    result: dict[str, Any] = run_one(client, "run", WORKLOAD)
    if len(result["tokens"]) != WORKLOAD.decode:
        raise EngineError("the client of the benchmark made fewer tokens than it should")
    return float((WORKLOAD.decode - 1) / (result["s"] - result["prefill_s"]))


def _pair(client: Process, idle: list[Process], neighbours: list[Process], kind: str) -> tuple[float, float]:
    """The rate beside idle ones, and right after it the one beside hostile ones. Raises EngineError where processes of
    others keep the cores busy."""
    for _ in range(TRIES):
        others = Others()
        rates = _beside(client, idle, IDLE), _beside(client, neighbours, kind)
        if (taken := others.cores()) <= OTHERS:
            return rates
    raise EngineError(f"others took {taken:.1f} cores, where hostile clients have to run: measure on a quiet machine")


def _beside(client: Process, neighbours: list[Process], kind: str) -> float:
    """Raises EngineError where a hostile client wasn't heard meanwhile, which proves nothing about it."""
    before = _command(neighbours, "start")
    try:
        time.sleep(BEGIN[kind])
        if kind in (IDLE, "greedy"):  # the others are heard only as long as they have room
            before = _command(neighbours, "count")
        rate = _rate(client)
    finally:
        after = _command(neighbours, "stop")
    if kind != IDLE and any(later == earlier for earlier, later in zip(before, after, strict=True)):
        raise EngineError("a hostile client of the benchmark came to nothing: is something else keeping the cores?")
    return rate


def _command(neighbours: list[Process], do: str) -> list[dict[str, Any]]:
    for one in neighbours:
        one.ask(do=do)
    return [one.answer() for one in neighbours]


@contextlib.contextmanager
def _neighbour(setting: Setting, folder: Path, address: str, keys: Path | None) -> Iterator[Process]:
    arguments = [str(folder), "--mode", "plain", "--offload", address, "--threads", str(setting.threads)]
    arguments += ["--context", str(WORKLOAD.context)]
    if keys is not None:
        arguments += ["--key", str(keys / "neighbour.key"), "--accelerator-key", str(keys / "server.pub")]
    with client_process(arguments) as client:
        yield client


@contextlib.contextmanager
def _neighbours(kind: str, folder: Path, address: str, keys: Path | None) -> Iterator[list[Process]]:
    spec = load_spec(folder)
    number = next(i for i, (site, _, _) in enumerate(spec.sites()) if site == SITE)
    arguments = [kind, address, "--matrix", str(number), "--depth", str(spec.hidden)]
    arguments += ["--keys", str(keys)] if keys is not None else []
    command = [sys.executable, hostile.__file__, *arguments]
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Process(command, name=f"a {kind} client")) for _ in range(max(COUNTS))]


def configure(parser: argparse.ArgumentParser) -> None:
    add_rounds(parser)
    parser.add_argument("--link", action="append", choices=LINKS, help="over these alone (default all)")
    parser.add_argument("--kind", action="append", choices=KINDS, help="beside these alone (default all)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of each party (default 1)")
    parser.add_argument("--device", default="cpu", metavar="cpu|cuda:N", help="of the accelerator (default cpu)")
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    setting = Setting(args.threads, args.rounds, LINKS[0], args.device, log)
    rows = run_neighbours(setting, args.link or LINKS, args.kind or KINDS)
    print(rows_table(rows), end="\n\n")
    print(targets_table(rows, TARGETS))
    save_rows(args, rows, threads=args.threads)
    return 0
