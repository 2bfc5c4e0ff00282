"""Batches over a cluster whose engines die, and over as many nodes as there are cores: `python -m benchmarks batches`.

*Prompts*: a thousand over three nodes of Ray's on this machine, once undisturbed, once while an engine is killed every
30 s and the driver twice, after a third and two thirds of the answers, each time followed by `--resume`. The rate is of
all answers over the time of all commands, their starts included; the cluster stays. Answers are drawn by seeds, so both
runs must give the same texts.

*Videos*: two hundred of fifty pictures over nodes that are pinned to a core each, beside the same command without Ray
pinned to one core. Three nodes can't be pinned to equal shares of two cores: there are as many nodes as cores, three at
most, and the rate is compared with as many times that of one core. Ray's own processes, the driver and its head, take
their part of the same cores. *Once they play* leaves the starts of the commands out: it counts from the first output.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.ray_cluster import children
from benchmarks.targets import Target, targets_table
from cutset.cli.bench_rows import rows_table, save_rows
from cutset.cli.options import add_json
from cutset.cli.output import log
from cutset.compare.results import Row
from cutset.errors import EngineError, RequestError
from cutset.link.launch import PIPE, Child, environment

__all__ = ["TARGETS", "configure", "run"]

SYSTEM = "cutset over Ray"
RATE, PLAYED, WRONG = "answers a second", "pictures a second, once they play", "answers lost, twice or others"
OVER, TIMES = "rate over the undisturbed rate", "rate over that of one core, times the nodes"
TARGETS = (
    Target("results lost, twice or others while engines and the driver are killed", WRONG, 0.0),
    Target("rate while engines and the driver are killed over the undisturbed one", OVER, 0.8, least=True),
    Target("videos over nodes, over as many times one node on its core", TIMES, 0.9, least=True),
)
NODES = 3
SIZE, SCENES = (96, 160), 60  # of pictures; different ones, of which each video has some
NETWORK = "mobilenet_v3_small"
PATIENCE_S = 3600.0  # of a command


class Cluster(NamedTuple):
    """Nodes that run. `env`: for commands that use them."""

    address: str
    env: Mapping[str, str]
    process: int


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workload", choices=("prompts", "videos"), action="append", help="default: both")
    parser.add_argument("--quick", action="store_true", help="small enough to end in about a minute: no figures")
    parser.add_argument("--prompts", type=int, default=1000, metavar="N", help="default 1000")
    parser.add_argument("--tokens", type=int, default=512, metavar="N", help="of each answer (default 512)")
    parser.add_argument("--every", type=float, default=30.0, metavar="S", help="an engine is killed (default 30)")
    parser.add_argument("--videos", type=int, default=200, metavar="N", help="default 200")
    parser.add_argument("--pictures", type=int, default=50, metavar="N", help="of each video (default 50)")
    add_json(parser, "the rows")


def run(args: argparse.Namespace) -> int:
    if args.quick:
        args.prompts, args.tokens, args.every, args.videos, args.pictures = 120, 160, 4.0, 6, 5
    if min(args.prompts, args.tokens, args.videos, args.pictures) < 3 or args.every <= 0:
        raise RequestError("--prompts, --tokens, --videos and --pictures must be at least 3, --every above 0")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="cutset-bench-") as folder:
        for workload in args.workload or ("prompts", "videos"):
            rows += (run_prompts if workload == "prompts" else run_videos)(args, Path(folder))
    print(rows_table(rows))
    if not args.quick:
        print(f"\n{targets_table(rows, TARGETS)}")
    save_rows(args, rows, threads=1, packages=("ray",))
    return 0


def run_prompts(args: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Rows of the run that is disturbed, and of the one that isn't."""
    nodes = 2 if args.quick else NODES
    workload = f"{args.prompts} prompts of {args.tokens} tokens over {nodes} nodes"
    source, whole, out = (folder / name for name in ("in.jsonl", "whole.jsonl", "out.jsonl"))
    names = [f"prompt {number}" for number in range(args.prompts)]
    source.write_text("".join(json.dumps(_line(number, name, args.tokens)) + "\n" for number, name in enumerate(names)))
    with _cluster(nodes, nodes) as cluster:
        flags = ["--ray", cluster.address, "--ray-actors", str(nodes), "--threads", "1"]
        command = ["batch", "story", str(source), *flags, "--resume"]
        log(f"batches: {workload}, undisturbed")
        undisturbed = _timed([*command, "-o", str(whole)], cluster.env, lambda process: False)
        log("batches: an engine is killed now and then, and the driver twice")
        disturbing = _Killing(cluster, out, args.prompts, args.every)
        seconds = 0.0
        for last in (args.prompts // 3, 2 * args.prompts // 3, None):
            disturbing.until = last
            seconds += _timed([*command, "-o", str(out)], cluster.env, disturbing)
            log(f"batches: {disturbing.done} answers, {disturbing.killed} engines killed, {seconds:.0f} s")
    before, found = _texts(whole), _texts(out)
    wrong = sum(before[at] != found[at] for at in range(min(len(before), len(found)))) + abs(len(before) - len(found))
    wrong += sum(one[0] != name for one, name in zip(before, names, strict=False)) + abs(len(before) - len(names))
    rates = {"undisturbed": args.prompts / undisturbed, "killed": args.prompts / seconds}
    yield Row(f"{workload}, undisturbed", SYSTEM, RATE, rates["undisturbed"], "requests/s")
    yield Row(f"{workload}, {disturbing.killed} engines killed", SYSTEM, RATE, rates["killed"], "requests/s")
    yield Row(workload, SYSTEM, WRONG, float(wrong), "answers")
    yield Row(workload, SYSTEM, OVER, rates["killed"] / rates["undisturbed"], "x")


def _line(number: int, name: str, tokens: int) -> dict[str, Any]:
    body = {"prompt": f"Story {number}. Once upon a time", "max_tokens": tokens, "ignore_eos": True, "seed": number}
    return {"custom_id": name, "method": "POST", "url": "/v1/completions", "body": body | {"temperature": 0.9}}


def _texts(path: Path) -> list[tuple[str, str]]:
    """Names and texts of a batch's answers. Raises EngineError for an error among them."""
    found = []
    for line in path.read_text().splitlines():
        one = json.loads(line)
        if one["error"] or one["response"]["status_code"] != 200:
            raise EngineError(f"{one['custom_id']} has no answer: {line[:300]}")
        found.append((one["custom_id"], one["response"]["body"]["choices"][0]["text"]))
    return found


class _Killing:
    """Kills an engine every so many seconds, and says when the driver is to be killed: once `until` answers are on
    disk."""

    def __init__(self, cluster: Cluster, out: Path, count: int, every: float) -> None:
        self._cluster, self._parts, self._every = cluster, out.with_name(f"{out.name}.parts"), every
        self._last, self._random = time.monotonic(), random.Random(count)
        self._lines: dict[str, int] = {}
        self.until: int | None = None
        self.done = self.killed = 0

    def __call__(self, process: subprocess.Popen[str]) -> bool:
        for path in self._parts.glob("*.shard"):
            if path.name not in self._lines:
                with contextlib.suppress(OSError):
                    self._lines[path.name] = path.read_bytes().count(b"\n")
        self.done = sum(self._lines.values())
        if time.monotonic() - self._last > self._every and self.done:
            self._last = time.monotonic()
            if engines := children(self._cluster.process, "MapWorker"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._random.choice(engines), signal.SIGKILL)
                    self.killed += 1
        return self.until is not None and self.done >= self.until


def run_videos(args: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Rows of nodes that are pinned to a core each, and of one core alone."""
    cores = sorted(os.sched_getaffinity(0))[: 2 if args.quick else NODES]
    workload = f"{args.videos} videos of {args.pictures} pictures, {NETWORK}"
    _write_videos(folder / "in", args.videos, args.pictures)
    command = ["stream", "batch", NETWORK, str(folder / "in" / "*.mp4"), "--workers", "1", "--scheduler", "even"]
    alone, there = folder / "alone", folder / "there"
    log(f"batches: {workload}, on one core without Ray")
    seconds = _timed([*command, "-o", str(alone)], {}, lambda process: False, cores=cores[:1])
    one = _rates(alone, args.videos * args.pictures, seconds)
    log(f"batches: {workload}, over {len(cores)} nodes on a core each")
    with _cluster(len(cores), 1, cores) as cluster:
        over = [*command, "-o", str(there), "--ray", cluster.address, "--ray-actors", str(len(cores))]
        seconds = _timed(over, cluster.env, lambda process: False)
    many = _rates(there, args.videos * args.pictures, seconds)
    others = [path.name for path in alone.glob("*.jsonl") if path.read_bytes() != (there / path.name).read_bytes()]
    for name, found in (("cutset on one core", one), (f"{SYSTEM}, {len(cores)} nodes", many)):
        for metric, value in found.items():
            yield Row(workload, name, metric, value, "pictures/s")
    yield Row(workload, SYSTEM, "outputs that aren't those of one core", float(len(others)), "answers")
    yield Row(workload, SYSTEM, "whole commands, over that of one core, times the nodes", *_times(one, many, cores, 0))
    yield Row(workload, SYSTEM, TIMES, *_times(one, many, cores, 1))


def _times(one: Mapping[str, float], many: Mapping[str, float], cores: Sequence[int], which: int) -> tuple[float, str]:
    return list(many.values())[which] / (len(cores) * list(one.values())[which]), "x"


def _rates(folder: Path, pictures: int, seconds: float) -> dict[str, float]:
    """Pictures a second of a whole command, and from its first output to the last."""
    ended = sorted(path.stat().st_mtime for path in folder.glob("*.mp4.jsonl"))
    if len(ended) < 2 or ended[-1] <= ended[0]:
        raise EngineError(f"{folder} has too few outputs to measure")
    share = (len(ended) - 1) / len(ended)
    return {"pictures a second, whole command": pictures / seconds, PLAYED: share * pictures / (ended[-1] - ended[0])}


def _write_videos(folder: Path, count: int, pictures: int) -> None:
    import av

    from cutset.video.sources import GeneratedSource

    source = GeneratedSource(SIZE, seed=1)
    scenes = [source.pixels(number)[0].transpose(1, 2, 0) for number in range(SCENES + pictures)]
    folder.mkdir()
    for number in range(count):
        with av.open(str(folder / f"{number:03d}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.height, stream.width = SIZE
            stream.pix_fmt, stream.codec_context.thread_count = "yuv420p", 1
            for shown in scenes[number % SCENES :][:pictures]:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(shown.copy(), format="rgb24")))
            container.mux(stream.encode(None))


@contextlib.contextmanager
def _cluster(nodes: int, cpus: int, cores: Sequence[int] = ()) -> Iterator[Cluster]:
    words = ["benchmarks.ray_cluster", str(nodes), str(cpus), *([",".join(map(str, cores))] if cores else [])]
    child = Child("the cluster", words, env=environment(), stdin=PIPE, stdout=PIPE, stderr=None)
    try:
        found = child.answer()
        env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": found["token"]}
        yield Cluster(found["address"], env, child.process.pid)
    finally:
        child.end(30.0)


def _timed(
    command: Sequence[str],
    env: Mapping[str, str],
    look: Callable[[subprocess.Popen[str]], bool],
    *,
    cores: Sequence[int] = (),
) -> float:
    """Seconds of a command of Cutset's, until it ends, or `look` says that it is to be killed. Raises EngineError where
    it fails."""
    pin = [sys.executable, "-c", PINNED, ",".join(map(str, cores))] if cores else []
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        words = [*pin, sys.executable, "-m", "cutset.cli", *command]
        process = subprocess.Popen(words, stderr=said, text=True, env={**environment(), **env})
        try:
            while process.poll() is None:
                if look(process):
                    process.kill()
                    process.wait()
                    return time.monotonic() - begun
                if time.monotonic() - begun > PATIENCE_S:
                    raise EngineError(f"cutset {command[0]} took more than {PATIENCE_S:g} s")
                time.sleep(0.1)
        finally:
            process.kill()
        said.seek(0)
        if process.returncode:
            raise EngineError(f"cutset {command[0]} ended with {process.returncode}: {said.read()[-500:]}")
    return time.monotonic() - begun


# Becomes the command, on these cores.
PINNED = (
    "import os, sys; os.sched_setaffinity(0, map(int, sys.argv[1].split(','))); os.execv(sys.argv[2], sys.argv[2:])"
)
