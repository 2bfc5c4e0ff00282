"""Stages that Ray placed beside stages that were started by hand, and what Ray costs at rest: `python -m benchmarks
ray_stages`.

All are processes on this machine, on tcp with keys, with the same threads, and have the model on its disk. Rounds take
turns. At rest, processor time is read from the system's own accounts: of an actor's process without the stage that is
its child, of a node's other processes of Ray, and of the driver that all stages share. The figure that is judged has
all of these.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.targets import Target, targets_table
from cutset.bench.turns import Turn, medians, take_turns
from cutset.cli.bench_rows import add_rounds, rows_table, save_rows
from cutset.cli.options import add_json
from cutset.cli.output import log
from cutset.cluster.launch.ray_launcher import RayLauncher
from cutset.compare.results import Row
from cutset.engine.params import SamplingParams
from cutset.link.keys import new_keys, save_keys
from cutset.link.launch import PIPE, Child, environment
from cutset.llm import LLM

__all__ = ["TARGETS", "configure", "run"]

PROMPT = "Once upon a time"
RATE, COST = "tokens/s of one answer", "processor time of a token"
PLACED, BY_HAND = "stages placed by Ray", "stages by hand"
TARGETS = (
    Target("stages placed by Ray over stages by hand, tokens/s", "rate to by hand", 0.98, least=True),
    Target("Ray's own cost of an idle stage, share of a core", "idle stage, all of Ray", 0.03),
)
HERTZ = os.sysconf("SC_CLK_TCK")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", default="story", metavar="MODEL", help="default story")
    parser.add_argument("--stages", type=int, default=3, metavar="N", help="default 3")
    parser.add_argument("--tokens", type=int, default=200, metavar="N", help="of an answer (default 200)")
    parser.add_argument("--answers", type=int, default=8, metavar="N", help="of a round (default 8)")
    parser.add_argument("--rest", type=float, default=30.0, metavar="S", help="seconds at rest (default 30)")
    add_rounds(parser)
    add_json(parser, "the rows")


def run(args: argparse.Namespace) -> int:
    how: dict[str, Any] = {"threads": 1, "cache_mib": 64, "max_model_len": args.tokens + 56}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cutset-bench-")))
        by_hand, started = stack.enter_context(_by_hand(args, folder, how))
        log("starting a local Ray cluster")
        placed = stack.enter_context(LLM(args.model, stages=args.stages, ray="local", **how))
        engines = {BY_HAND: by_hand, PLACED: placed}
        children = {BY_HAND: started, PLACED: _pids_placed(placed)}

        def turn(name: str) -> Turn:
            return lambda number: _measured(args, name, engines[name], children[name])

        rows = medians(take_turns("ray_stages", [turn(name) for name in engines], args.rounds, log, warmup=1))
        rows += _at_rest(args, placed)
    found = {(row.system, row.metric): row.value for row in rows}
    ratio = found[PLACED, RATE] / found[BY_HAND, RATE]
    rows.append(Row(args.model, "cutset stages", "rate to by hand", ratio, "x", None))
    print(rows_table(rows))
    print(f"\n{targets_table(rows, TARGETS)}")
    save_rows(args, rows, threads=args.stages)
    return 0


@contextlib.contextmanager
def _by_hand(args: argparse.Namespace, folder: Path, how: dict[str, Any]) -> Iterator[tuple[LLM, list[int]]]:
    """An engine over `cutset stage` on tcp with keys, and the processes of these."""
    children: list[Child] = []
    save_keys(new_keys(), "me", folder)
    places = [_free_address() for _ in range(args.stages)]
    try:
        for number, where in enumerate(places):
            save_keys(new_keys(), f"stage{number}", folder)
            keyed = ["--key", str(folder / f"stage{number}.key"), "--allow", str(folder / "me.pub")]
            words = ["cutset.cli", "stage", args.model, "--listen", where, *keyed, "--threads", "1"]
            children.append(Child(f"stage {number}", words, env=environment(1), stderr=PIPE))
            children[-1].until("listening on")
        public = [folder / f"stage{number}.pub" for number in range(args.stages)]
        with LLM(args.model, stages=places, stage_keys=public, key=folder / "me.key", **how) as llm:
            yield llm, [child.process.pid for child in children]
    finally:
        for child in children:
            child.end()


def _free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{free.getsockname()[1]}"


def _launcher(llm: LLM) -> RayLauncher:
    assert llm.stages is not None
    launcher = llm.stages.pipeline.workers.launcher
    assert isinstance(launcher, RayLauncher)
    return launcher


def _pids_placed(llm: LLM) -> list[int]:
    launcher = _launcher(llm)
    return [launcher.process_id(name) for name in launcher.names]


def _measured(args: argparse.Namespace, name: str, llm: LLM, stages: list[int]) -> list[Row]:
    params = SamplingParams(temperature=0, max_tokens=args.tokens, ignore_eos=True)
    seconds, before, begun = [], _cpu(stages), time.process_time()
    for _ in range(args.answers):
        since = time.perf_counter()
        found = llm.generate(PROMPT, params)[0].outputs[0]
        seconds.append(time.perf_counter() - since)
        assert len(found.token_ids) == args.tokens
    spent = time.process_time() - begun + _cpu(stages) - before
    return [
        Row(args.model, name, RATE, args.tokens / median(seconds), "tok/s", None),
        Row(args.model, name, COST, 1e3 * spent / args.tokens / args.answers, "ms", None),
    ]


def _at_rest(args: argparse.Namespace, llm: LLM) -> list[Row]:
    """Shares of a core of Ray's processes, per stage, while nobody asks for anything."""
    stages = _pids_placed(llm)
    actors = [_parent(pid) for pid in stages]
    raylets = sorted({_parent(actor) for actor in actors})
    driver = _driver()
    # Of a node: its raylet and what that has started, without actors and their stages.
    rest = sorted({pid for raylet in raylets for pid in _family(raylet)} - set(actors) - set(stages))
    groups = {"actor": actors, "node": rest, "driver": [driver]}
    time.sleep(2.0)
    before, since = {name: _cpu(pids) for name, pids in groups.items()}, time.perf_counter()
    time.sleep(args.rest)
    elapsed, count = time.perf_counter() - since, len(stages)
    shares = {name: (_cpu(pids) - before[name]) / elapsed / count for name, pids in groups.items()}
    said = {"actor": "its actor", "node": "its node's raylet and agents", "driver": "its part of the driver"}
    rows = [
        Row(args.model, "cutset stages", f"idle stage, {said[name]}", share, "rel", None)
        for name, share in shares.items()
    ]
    return [*rows, Row(args.model, "cutset stages", "idle stage, all of Ray", sum(shares.values()), "rel", None)]


def _cpu(pids: list[int]) -> float:
    """Seconds of processor time of these processes; what has ended counts nothing."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = _stat(pid)
            total += (int(fields[11]) + int(fields[12])) / HERTZ
    return total


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: state, parent, …"""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _parent(pid: int) -> int:
    return int(_stat(pid)[1])


def _family(root: int) -> set[int]:
    """A process and all that it has started."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(path.name)] = _parent(int(path.name))
    found, grown = {root}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return found


def _driver() -> int:
    """The process of this one that talks to Ray."""
    for pid in _family(os.getpid()):
        with contextlib.suppress(OSError):
            if b"cutset.cluster.launch.ray_driver" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    raise AssertionError("no driver runs")
