"""`python -m benchmarks receipts`: the CPU time that receipts cost, as a share of decoding, and what they take apart.

The same answers with and without a receipt take turns in one process; CPU seconds of all its threads count, which
others on the machine change little. What a receipt takes (noting the pieces, hashing, signing) is timed by itself too:
beside whole answers it is less than the noise.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.targets import Target, targets_table
from cutset import LLM, SamplingParams
from cutset.bench.decode import WORKLOADS
from cutset.bench.offload import integer_checkpoint
from cutset.bench.turns import medians, take_turns
from cutset.cli.bench_rows import add_rounds, rows_table, save_rows
from cutset.cli.options import add_json
from cutset.cli.output import log
from cutset.compare.results import Row
from cutset.errors import RequestError
from cutset.models.random import RandomModel
from cutset.receipts.issuer import ReceiptIssuer
from cutset.trust.signing_key import Signer, SigningKey

__all__ = ["MODELS", "TARGETS", "configure", "run"]

MODELS = {"tiny": RandomModel(max_pos=1024, vocab=512), "w246": WORKLOADS["w246"].model}
WITH = "CPU time with receipts over without"
SHARE = "CPU time of a receipt over that of its answer"
TARGETS = (Target("a receipt's CPU time over that of its answer", SHARE, 0.01),)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="default 1")
    parser.add_argument("--model", choices=tuple(MODELS), default="w246", help="random weights (default w246)")
    parser.add_argument("--prompt", type=int, default=64, metavar="N", help="tokens (default 64)")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="of each answer (default 64)")
    add_rounds(parser)
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    if args.prompt < 1 or args.tokens < 2 or args.threads < 1:
        raise RequestError("--prompt and --threads must be at least 1, --tokens at least 2")
    settings: dict[str, Any] = {"threads": args.threads, "dtype": "int8", "backend": "native", "cache_mib": 64}
    settings |= {"prefix_caching": False, "max_num_seqs": 1}
    with integer_checkpoint(MODELS[args.model]) as folder, LLM(folder, **settings) as llm:
        rows = cost(llm, args.model, args.prompt, args.tokens, args.rounds)
    print(rows_table(rows))
    print(targets_table(rows, TARGETS))
    save_rows(args, rows, threads=args.threads)
    return 0


def cost(llm: LLM, model: str, prompt: int, tokens: int, rounds: int) -> list[Row]:
    """Answers with and without receipts, in turns."""
    issuer = ReceiptIssuer(llm, Signer(SigningKey.new()))
    ids = np.random.default_rng(0).integers(3, llm.spec.vocab_size, prompt).astype(np.int32)
    params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
    workload = f"{model} int8, {prompt} tokens prompt, {tokens} decoded"

    def plain() -> float:
        start = time.process_time()
        for _ in llm.stream(ids, params):
            pass
        return time.process_time() - start

    def receipted() -> tuple[float, float, int]:
        """Seconds of all, and of the receipt alone; its bytes."""
        start = time.process_time()
        receipt = issuer.begin([ids], params)
        deltas = list(llm.stream(ids, receipt.params))
        before = time.thread_time()
        for delta in deltas:
            receipt.take(0, delta)
        data = receipt.finish()
        return time.process_time() - start, time.thread_time() - before, len(data)

    def turn(number: int) -> Iterator[Row]:
        if number % 2:
            without, (whole, alone, size) = plain(), receipted()
        else:
            (whole, alone, size), without = receipted(), plain()
        yield Row(workload, "cutset", "CPU time of an answer", without, "s")
        yield Row(workload, "cutset", "CPU time of its receipt", alone, "s")
        yield Row(workload, "cutset", SHARE, alone / without, "x")
        yield Row(workload, "cutset", WITH, whole / without, "x")
        yield Row(workload, "cutset", "size of a receipt", size, "B")

    return medians(take_turns("receipts", [turn], rounds, log))
