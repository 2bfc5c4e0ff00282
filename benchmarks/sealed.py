"""`python -m benchmarks sealed`: a sealed checkpoint beside the plain one, in turns.

From the start of a process to its first token, both files in the page cache, and tokens a second once it runs. Each
start of the sealed one comes right after a plain one: their difference is what opening adds. Bytes over the median of
these differences is its rate: of single ones, that of a start that happened to be quick would be as large as you like.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.start import seconds_to_first_byte
from benchmarks.targets import Target, targets_table
from cutset import LLM, SamplingParams
from cutset.bench.decode import WORKLOADS
from cutset.bench.offload import integer_checkpoint
from cutset.bench.turns import medians, take_turns
from cutset.cli.bench_rows import add_rounds, rows_table, save_rows
from cutset.cli.options import add_json
from cutset.cli.output import log
from cutset.compare.results import Row
from cutset.config import usable_cores
from cutset.errors import RequestError
from cutset.models.random import RandomModel
from cutset.trust.sealing.opened_model import opened_model
from cutset.trust.sealing.seal_model import seal_model, write_model_key

__all__ = ["MODELS", "OVER", "RATE", "TARGETS", "configure", "run"]

MODELS = {"tiny": RandomModel(max_pos=1024, vocab=512), "w246": WORKLOADS["w246"].model}
PROMPT = [5 + i for i in range(16)]
ADDED, OVER = "what opening adds to a start", "decode, sealed over plain"
RATE = f"bytes over {ADDED}"
LEAST = 1e-3  # seconds: what a start varies by, at least
TARGETS = (
    Target("opening a sealed checkpoint", RATE, 1.5, least=True),
    Target("tokens a second, sealed over plain", OVER, 0.98, least=True),
)


def configure(parser: argparse.ArgumentParser) -> None:
    threads = usable_cores()
    parser.add_argument("--threads", type=int, default=threads, metavar="N", help=f"default {threads}, one a core")
    parser.add_argument("--model", choices=tuple(MODELS), default="w246", help="random weights (default w246)")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="of each answer (default 64)")
    add_rounds(parser)
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    if args.threads < 1 or args.tokens < 2:
        raise RequestError("--threads must be at least 1, --tokens at least 2")
    with integer_checkpoint(MODELS[args.model]) as plain, tempfile.TemporaryDirectory() as room:
        sealed, key = Path(room) / "sealed", Path(room) / "model.key"
        opens = seal_model(plain, sealed)
        write_model_key(opens, key)
        rows = starts(f"{args.model} int8", plain, sealed, key, args.threads, args.rounds)
        with ExitStack() as stack:
            found = {"plain": plain, "sealed": stack.enter_context(opened_model(sealed, opens, args.threads))}
            rows += decoding(f"{args.model} int8", found, args.threads, args.tokens, args.rounds)
    print(rows_table(rows))
    print(targets_table(rows, TARGETS))
    save_rows(args, rows, threads=args.threads)
    return 0


def starts(workload: str, plain: Path, sealed: Path, key: Path, threads: int, rounds: int) -> list[Row]:
    """Seconds to the first token, and the rate of what the sealed one adds."""
    size = sum(path.stat().st_size for path in plain.rglob("*") if path.is_file())
    command = [sys.executable, "-m", "cutset.cli", "generate", "--max-tokens", "4", "--ignore-eos"]
    command += ["--threads", str(threads), "--prompt", " ".join(f"t{i}" for i in PROMPT)]

    def turn(number: int) -> Iterator[Row]:
        each = [
            seconds_to_first_byte([*command, *more], cache)
            for more in ([str(plain)], [str(sealed), "--model-key", str(key)])
        ]
        for system, seconds in zip(("plain", "sealed"), each, strict=True):
            yield Row(workload, f"cutset {system}", "first byte", seconds, "s")
        yield Row(workload, "cutset sealed", ADDED, each[1] - each[0], "s")

    with tempfile.TemporaryDirectory() as cache:
        rows = medians(take_turns("starts", [turn], rounds, log))
    [added] = [row.value for row in rows if row.metric == ADDED]
    return [*rows, Row(workload, "cutset sealed", RATE, size / 1e9 / max(added, LEAST), "GB/s")]


def decoding(workload: str, models: dict[str, Path], threads: int, tokens: int, rounds: int) -> list[Row]:
    """Tokens a second of both, loaded at once. Raises RequestError where they differ in a token."""
    settings: dict[str, Any] = {"threads": threads, "dtype": "int8", "backend": "native", "cache_mib": 64}
    settings |= {"prefix_caching": False, "max_num_seqs": 1, "generation_config": False}
    params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
    with ExitStack() as stack:
        llms = {name: stack.enter_context(LLM(path, **settings)) for name, path in models.items()}

        def decode(llm: LLM) -> tuple[float, list[int]]:
            answer, times = list[int](), list[float]()
            for delta in llm.stream(PROMPT, params):
                answer += delta.token_ids
                times.append(time.perf_counter())
            return (len(answer) - 1) / (times[-1] - times[0]), answer

        def turn(number: int) -> Iterator[Row]:
            found = {name: decode(llms[name]) for name in sorted(llms, reverse=number % 2 == 0)}
            if found["plain"][1] != found["sealed"][1]:
                raise RequestError("the sealed model gives other tokens than the plain one")
            for name, (rate, _) in found.items():
                yield Row(workload, f"cutset {name}", "decode", rate, "tok/s")
            yield Row(workload, "cutset sealed", OVER, found["sealed"][0] / found["plain"][0], "x")

        return medians(take_turns("decoding", [turn], rounds, log))
