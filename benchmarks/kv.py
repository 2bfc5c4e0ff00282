"""`python -m benchmarks kv`: what a KV cache in 8 bits and prefixes on disk save, each beside what it replaces.

Decode: one row at the end of a context of 16 k, with caches of both kinds over the same weights. Prefixes: the prompt
of one request is computed, or read from a directory that has it; each time an engine with an empty cache begins, and
files come from the operating system's memory where it has them. Everything takes turns.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.targets import Target, targets_table
from cutset import LLM
from cutset.bench.decode import WORKLOADS
from cutset.bench.offload import integer_checkpoint
from cutset.bench.turns import medians, take_turns
from cutset.cli.bench_rows import add_rounds, rows_table, save_rows
from cutset.cli.options import add_json
from cutset.cli.output import log
from cutset.compare.results import Row
from cutset.engine.engine import Engine
from cutset.engine.prefix_store import PrefixStore
from cutset.errors import RequestError
from cutset.models.random import RandomModel
from cutset.models.run.executor import Batch

__all__ = ["MODELS", "TARGETS", "configure", "run"]

BLOCK = 16
STEPS = 4  # decoded in a turn
MODELS = {
    "tiny": RandomModel(),
    "w246": WORKLOADS["w246"].model,
    "w1b": RandomModel(
        hidden=2048, layers=22, heads=32, kv_heads=4, intermediate=5632, vocab=32000, max_pos=2048, tied=False
    ),
}
FASTER = "decode, int8 over float32 cache"
SHARE = "a warm prefix over its prefill"
TARGETS = (
    Target("decode at a long context, int8 over float32 cache", FASTER, 1.4, least=True),
    Target("a warm prefix from disk over its prefill", SHARE, 0.1),
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="default 2")
    parser.add_argument("--model", choices=tuple(MODELS), default="w246", help="random weights (default w246)")
    parser.add_argument("--context", type=int, default=16384, metavar="N", help="tokens when decoding (default 16384)")
    parser.add_argument("--prefix", type=int, default=2048, metavar="N", help="tokens of the prefix (default 2048)")
    add_rounds(parser)
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    least = 2 * BLOCK
    if args.context < least or args.prefix < least or args.threads < 1:
        raise RequestError(f"--context and --prefix must be at least {least}, --threads at least 1")
    longest = max(args.context, args.prefix) + least
    model = replace(MODELS[args.model], max_pos=longest)
    settings: dict[str, Any] = {"threads": args.threads, "dtype": "int8", "backend": "native", "cache_mib": 64}
    with integer_checkpoint(model) as folder, LLM(folder, max_num_seqs=1, **settings) as llm:
        rows = decode(llm, args.model, args.context, args.rounds)
        rows += prefixes(llm, args.model, args.prefix, args.rounds)
    print(rows_table(rows))
    print(targets_table(rows, TARGETS))
    save_rows(args, rows, threads=args.threads)
    return 0


def decode(llm: LLM, model: str, context: int, rounds: int) -> list[Row]:
    """Tokens a second at the end of a context, with both kinds of cache."""
    blocks = -(-(context + 1) // BLOCK)
    prompt = np.random.default_rng(0).integers(0, llm.spec.vocab_size, BLOCK).astype(np.int32)
    caches = {kind: llm.executor.new_cache(blocks, BLOCK, 0, kind) for kind in ("auto", "int8")}
    for cache in caches.values():
        llm.executor.forward(replace(Batch.whole(prompt[None], BLOCK), states=None), cache)
        for number in range(1, blocks):  # how fast it is doesn't depend on what is there
            for piece, first in zip(cache.block(number), cache.block(0), strict=True):
                piece[:] = first
    batch = Batch(
        token_ids=prompt[:1],
        positions=np.array([context], np.int32),
        row_starts=np.array([0, 1], np.int32),
        context_lens=np.array([context + 1], np.int32),
        block_tables=np.arange(blocks, dtype=np.int32)[None],
        logit_rows=np.array([0], np.int32),
        limits=np.array([context + 1], np.int32),
    )
    workload = f"{model}, a context of {context}"

    def turn(_: int) -> Iterator[Row]:
        seconds = {}
        for kind, cache in caches.items():
            start = time.perf_counter()
            for _ in range(STEPS):
                llm.executor.forward(batch, cache)
            seconds[kind] = time.perf_counter() - start
            name = "float32" if kind == "auto" else kind
            yield Row(workload, f"cutset, {name} cache", "decode", STEPS / seconds[kind], "tok/s")
        yield Row(workload, "cutset", FASTER, seconds["auto"] / seconds["int8"], "x")

    return medians(take_turns(workload, [turn], rounds, log))


def prefixes(llm: LLM, model: str, tokens: int, rounds: int) -> list[Row]:
    """Milliseconds until a prompt of some tokens and one more has been computed, or read from a warm directory."""
    prompt = np.random.default_rng(1).integers(0, llm.spec.vocab_size, tokens + 1).astype(np.int32)
    workload = f"{model}, a prefix of {tokens}"
    options: dict[str, Any] = {"blocks": -(-tokens // BLOCK) + 4, "block_size": BLOCK, "max_num_seqs": 1}

    def first_token(store: PrefixStore | None, kind: str) -> tuple[float, int]:
        engine = Engine(llm.executor, llm.tokenizer, store=store, kv_dtype=kind, **options)
        start = time.perf_counter()
        engine.add("a", prompt)
        engine.prefill("a")
        return time.perf_counter() - start, engine.stats().stored_hits

    def turn(folder: Path, kind: str) -> Iterator[Row]:
        name = "float32" if kind == "auto" else kind
        with contextlib.closing(PrefixStore(folder, 64 << 30, kind.encode())) as store:
            computed, _ = first_token(None, kind)
            read, hits = first_token(store, kind)
        if hits != tokens // BLOCK * BLOCK:
            return  # the first time it is written
        yield Row(workload, f"cutset, computed, {name}", "first token", 1e3 * computed, "ms")
        yield Row(workload, f"cutset, read, {name}", "first token", 1e3 * read, "ms")
        yield Row(workload, f"cutset, {name} cache", SHARE, read / computed, "rel")

    with tempfile.TemporaryDirectory() as directory:
        turns = [lambda _, kind=kind: turn(Path(directory) / kind, kind) for kind in ("auto", "int8")]
        return medians(take_turns(workload, turns, rounds, log, warmup=2))
