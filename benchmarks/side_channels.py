"""`python -m benchmarks side_channels`: what sizes and times of streamed answers tell, with `--pad-stream` and without.

A server answers requests of several kinds over and over: prompts of four lengths, and four questions that an observer
knows. A party that sees the encrypted records alone is stood in for by the sizes of what the server wrote at once (a
record each with TLS) and the times when it arrived. Mutual information is that of the kind of request and a feature,
cut into as many parts as there are kinds by its quantiles, less the mean of what shuffled kinds give (which is what
chance gives so few samples). It is at most the logarithm of the number of kinds. Nothing is kept of earlier prompts, so
that each is computed.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import numpy as np

from cutset.bench.turns import started
from cutset.cli.bench_rows import rows_table, save_rows
from cutset.cli.options import add_json
from cutset.cli.output import log
from cutset.compare.results import Row
from cutset.errors import RequestError

__all__ = ["FEATURES", "PROMPTS", "QUESTIONS", "configure", "mutual_information", "run"]

COMMAND = ("-m", "cutset", "serve", "story", "--port", "0", "--threads", "1", "--no-prefix-caching")
QUESTIONS = (
    "Once upon a time there was a little dog. The dog",
    "Lily and Tom went to the park with their mom. They",
    "The sun was very hot. The big red car",
    "One day, a bird saw a cat under the tree. The bird",
)
PROMPTS = (4, 40, 120, 360)  # tokens, all of one kind
TOKENS = 24  # of each answer
SHUFFLES = 200
FEATURES = ("first byte", "duration", "bytes", "records", "largest record")


class Seen(NamedTuple):
    """What arrived of an answer: sizes of its records, and seconds since the request of what came first and last."""

    sizes: list[int]
    first: float
    last: float

    def features(self) -> list[float]:
        """As FEATURES names them."""
        return [self.first, self.last, sum(self.sizes), len(self.sizes), max(self.sizes)]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requests", type=int, default=24, metavar="N", help="of each kind (default 24)")
    parser.add_argument("--period", type=int, default=20, metavar="MS", help="of --pad-stream (default 20)")
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    if args.requests < 2 or not 10 <= args.period <= 10_000:
        raise RequestError("--requests must be at least 2, --period from 10 to 10000")
    rows = []
    for system, flags in (("as they come", ()), (f"--pad-stream {args.period}", ("--pad-stream", str(args.period)))):
        rows += measured(system, flags, args.requests)
    print(rows_table(rows))
    save_rows(args, rows, threads=1)
    return 0


def measured(system: str, flags: Sequence[str], requests: int) -> list[Row]:
    """Bits that each feature tells of the prompt's length and of the question."""
    rows = []
    with started([sys.executable, *COMMAND, *flags], r"at (http://\S+?)/v1", name="cutset serve") as url:
        lengths: list[dict[str, Any]] = [{"prompt": [5 + i % 50 for i in range(count)]} for count in PROMPTS]
        questions: list[dict[str, Any]] = [{"prompt": text} for text in QUESTIONS]
        for what, kinds in (("length of the prompt", lengths), ("question", questions)):
            log(f"{system}: {what}")
            seen: list[tuple[int, list[float]]] = []
            for _ in range(requests):
                for kind, asked in enumerate(kinds):
                    fields = asked | {"max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "stream": True}
                    seen.append((kind, ask(url, fields).features()))
            labels = np.array([kind for kind, _ in seen])
            values = np.array([found for _, found in seen])
            for at, feature in enumerate(FEATURES):
                bits = mutual_information(labels, values[:, at], len(kinds))
                workload = f"{what}, {len(kinds)} kinds, {feature}"
                rows.append(Row(workload, f"cutset, {system}", "mutual information", bits, "bits"))
    return rows


def ask(url: str, fields: dict[str, Any]) -> Seen:
    """A streamed answer, as it arrives."""
    where = urlsplit(url)
    body = msgspec.json.encode(fields)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {where.netloc}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    found, times = bytearray(), list[float]()
    with socket.create_connection((where.hostname or "", where.port or 80), timeout=60) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        start = time.perf_counter()
        link.sendall(head.encode() + body)
        while data := link.recv(1 << 16):
            found += data
            times.append(time.perf_counter() - start)
    return Seen(records(bytes(found)), times[0], times[-1])


def records(answer: bytes) -> list[int]:
    """The sizes of what was written at once: chunks of HTTP, without the empty one at the end. Raises RequestError."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.partition(b"\r\n")[0] or b"chunked" not in head.lower():
        raise RequestError(f"the server answered {head[:200]!r}")
    sizes = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        sizes.append(int(size, 16))
        rest = rest[sizes[-1] + 2 :]
    return sizes[:-1]


def mutual_information(labels: np.ndarray[Any, Any], values: np.ndarray[Any, Any], kinds: int) -> float:
    """Bits that a feature's values (samples,) tell of labels (samples,), beyond what chance gives; at least 0."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, kinds + 1)[1:-1]))
    parts = np.searchsorted(edges, values, side="right")
    draw = np.random.default_rng(0)
    chance = float(np.mean([_plain(draw.permutation(labels), parts) for _ in range(SHUFFLES)]))
    return max(0.0, _plain(labels, parts) - chance)


def _plain(labels: np.ndarray[Any, Any], parts: np.ndarray[Any, Any]) -> float:
    joint = np.zeros((int(labels.max()) + 1, int(parts.max()) + 1))
    np.add.at(joint, (labels, parts), 1.0 / len(labels))
    alone = joint.sum(1, keepdims=True) @ joint.sum(0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log2(joint[there] / alone[there])).sum())
