"""`python -m benchmarks stages`: stages on this machine, and llama.cpp's RPC beside them with a server for each.

    --llama DIRECTORY    with `ggml-rpc-server` and `llama-batched-bench`, built with GGML_RPC from the source of
                         llama-cpp-python (CONTRIBUTING.md says how); without it, that part is left out
    --python FILE        the Python that has gguf, which writes llama.cpp's file

Each server has a core and a thread, as each stage has. Both sides compute with 8-bit weights in groups of one file.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import opponents
from benchmarks.targets import Target, targets_table
from cutset.bench.stage_models import StageBench
from cutset.bench.stage_workers import BenchStages, cores, engine_process, on_cores
from cutset.bench.turns import environment, medians, take_turns
from cutset.cli import bench_stages
from cutset.cli.bench_rows import save_rows
from cutset.compare.results import Row
from cutset.errors import EngineError

__all__ = ["TARGETS", "configure", "run"]

STREAMS = (1, 8)
PROMPT = 16
STARTING = 30.0  # seconds
RPC = "llama.cpp RPC q8_0"

TARGETS = [
    Target("two stages against one core", "against one core with 8 streams", 1.7, least=True),
    Target("against llama.cpp's RPC", "against llama.cpp's RPC", 1.5, least=True),
    Target("of what latency allows", "of what latency allows", 0.9, least=True),
    Target("a hop, tcp with keys", "kernel to kernel, p50", 100.0, system="cutset tcp"),
    Target("a hop, shared memory", "kernel to kernel, p50", 15.0, system="cutset shared"),
    Target("time to first token, two stages against one", "of one core's", 0.6),
    Target("kill -9, found (ms)", "found, longest", 150.0, workload="kill -9"),
    Target("kill -9, beyond computing again (s)", "beyond computing again, longest", 2.0, workload="kill -9"),
    Target("SIGSTOP, found (ms)", "found, longest", 3000.0, workload="SIGSTOP"),
    Target("answers after a fault that differ", "answers that differ or failed", 0.0),
    Target("answers that differ", "answers that differ", 0.0, workload="tokens of all"),
    Target("cache, of what memory allows", "of what memory allows", 0.9, least=True),
    Target("memory, of its limit", "of its limit", 1.0),
    Target("idle stages (% of a core)", "CPU of a core", 2.0, system="cutset stage"),
]


def configure(parser: argparse.ArgumentParser) -> None:
    bench_stages.configure(parser)
    parser.add_argument("--llama", type=Path, metavar="DIRECTORY", help="llama.cpp's programs, built with GGML_RPC")
    parser.add_argument("--python", metavar="FILE", help="the Python that has gguf")


def run(args: argparse.Namespace) -> int:
    workloads = [bench_stages.workload(name) for name in args.workload or bench_stages.WORKLOADS]
    if args.llama is not None and args.python:
        workloads.append(functools.partial(run_rpc, programs=args.llama, python=args.python))
    rows = bench_stages.measure(args, workloads)
    print(targets_table(rows, TARGETS))
    hidden = dict.fromkeys(filter(None, (args.python, str(args.llama or ""))), "HERE")
    save_rows(args, rows, threads=1, hidden=hidden)
    return 0


def run_rpc(bench: StageBench, programs: Path, python: str) -> list[Row]:
    """Two stages beside two servers, 1 and 8 streams."""
    a, b = cores(2)
    model, steps = bench.model("w246"), bench.some(64, 12)
    floats = bench.folder / f"{bench.named('w246')}-gguf"
    bench.write_floats("w246", floats)
    gguf = floats / "q8_0.gguf"
    writer = [python, opponents.__file__, "llama.cpp q8_0", str(floats), "--write-gguf", str(gguf)]
    subprocess.run(writer, check=True, capture_output=True)
    options = {"max_model_len": 512, "cache_mib": 256}
    with contextlib.ExitStack() as parts:
        stages = parts.enter_context(BenchStages([a, b], model))
        ours = parts.enter_context(engine_process(model, [a, b], options | stages.settings()))
        places = [parts.enter_context(_server(programs, core)) for core in (a, b)]
        measured = list[Row]()
        for streams in STREAMS:
            workload = f"{bench.named('w246')} in 8 bits over two, {streams} {'stream' if streams == 1 else 'streams'}"

            def turn(number: int, streams: int = streams, workload: str = workload) -> Iterator[Row]:
                found = ours.call(do="decode", sequences=streams, prompt=PROMPT, steps=steps)
                mine = found["tokens"] / found["seconds"]
                theirs = _theirs(programs, gguf, places, streams, steps)
                yield Row(workload, "cutset two stages int8", "decode", mine, "tok/s")
                yield Row(workload, RPC, "decode", theirs, "tok/s")
                yield Row(workload, "cutset two stages int8", "against llama.cpp's RPC", mine / theirs, "x")

            measured += take_turns(workload, [turn], bench.rounds, bench.log)
    return medians(measured)


@contextlib.contextmanager
def _server(programs: Path, core: int) -> Iterator[str]:
    """A ggml-rpc-server on a core; where it listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*on_cores([core]), str(programs / "ggml-rpc-server"), "-H", "127.0.0.1", "-p", str(port), "-t", "1"]
    with subprocess.Popen(command, env=environment(1), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _listens(port)
            yield f"127.0.0.1:{port}"
        finally:
            server.kill()


def _listens(port: int) -> None:
    end = time.monotonic() + STARTING
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise EngineError("llama.cpp's ggml-rpc-server doesn't start") from None
            time.sleep(0.1)


def _theirs(programs: Path, gguf: Path, places: Sequence[str], streams: int, steps: int) -> float:
    """Tokens a second of all streams after their prompts."""
    sizes = ["-npp", str(PROMPT), "-ntg", str(steps), "-npl", str(streams), "-c", "4096", "-b", "512", "-ub", "512"]
    command = [str(programs / "llama-batched-bench"), "-m", str(gguf), "--rpc", ",".join(places), "-ngl", "99", *sizes]
    command += ["-t", "1", "-tb", "1", "--output-format", "jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(1), check=False)
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            return float(json.loads(line)["speed_tg"])
    raise EngineError(f"llama-batched-bench ended with {done.returncode}: {done.stderr.strip()[-300:]}")
