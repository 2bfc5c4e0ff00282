"""Two replicas beside two servers that are fed by hand, and beside one engine: `python -m benchmarks replicas`.

Sixteen clients, four of each of four beginnings, have conversations of a few turns. By hand means that a client knows
which server has its beginning, and the clients of both are as many. Every server is started anew for each round, so
that no cache holds what the round before left. Threads are the same in all: one for each replica, two for one engine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.request import Request, urlopen

from benchmarks.targets import Target, targets_table
from cutset.bench.turns import Turn, medians, take_turns
from cutset.cli.bench_rows import add_rounds, rows_table, save_rows
from cutset.cli.options import add_json
from cutset.cli.output import log
from cutset.compare.results import Row
from cutset.link.launch import PIPE, Child, environment

__all__ = ["TARGETS", "configure", "run"]

CLIENTS, BEGINNINGS, TURNS = 16, 4, 3
RATE, HITS = "tokens of all clients", "prompt tokens found in a cache"
REPLICAS, BY_HAND, ONE = "2 replicas", "2 servers by hand", "1 engine"
TARGETS = (
    Target("2 replicas over 2 servers fed by hand, tokens/s", "rate to by hand", 0.95, least=True),
    Target("prefix hits of 2 replicas over those of 1 engine", "hits to one engine", 0.9, least=True),
)
WORDS = "Once upon a time there was a little girl named Lily who had a red ball and a small brown dog. "


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", default="story", metavar="MODEL", help="default story")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="of an answer (default 64)")
    add_rounds(parser)
    add_json(parser, "the rows")


def run(args: argparse.Namespace) -> int:
    systems: dict[str, list[list[str]]] = {
        REPLICAS: [["--replicas", "2", "--threads", "2"]],
        BY_HAND: [["--threads", "1"], ["--threads", "1"]],
        ONE: [["--threads", "2"]],
    }

    def turn(name: str) -> Turn:
        return lambda number: _measured(args, name, systems[name])

    rows = medians(take_turns("replicas", [turn(name) for name in systems], args.rounds, log, warmup=0))
    found = {(row.system, row.metric): row.value for row in rows}
    ratios = {
        "rate to by hand": found[REPLICAS, RATE] / found[BY_HAND, RATE],
        "hits to one engine": found[REPLICAS, HITS] / found[ONE, HITS],
    }
    rows += [Row(args.model, "cutset serve", metric, value, "x", None) for metric, value in ratios.items()]
    print(rows_table(rows))
    print(f"\n{targets_table(rows, TARGETS)}")
    save_rows(args, rows, threads=2)
    return 0


def _measured(args: argparse.Namespace, name: str, servers: list[list[str]]) -> list[Row]:
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(_server(args.model, flags)) for flags in servers]
        begun = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(lambda number: _client(urls, number, args.tokens), range(CLIENTS)))
        seconds = time.perf_counter() - begun
        time.sleep(1.5)  # counters of replicas come with their heartbeats
        hits, queries = (
            sum(_metric(url, f"vllm:prefix_cache_{what}_total") for url in urls) for what in ("hits", "queries")
        )
    rate = CLIENTS * TURNS * args.tokens / seconds
    return [
        Row(args.model, name, RATE, rate, "tok/s", None),
        Row(args.model, name, HITS, hits / queries, "rel", None),
    ]


@contextlib.contextmanager
def _server(model: str, flags: list[str]) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["cutset.cli", "serve", model, "--port", str(port), *flags]
    child = Child("a server", command, env=environment(), stderr=PIPE)
    try:
        child.until("^serving ")
        yield f"http://127.0.0.1:{port}"
    finally:
        child.end(20.0)


def _client(urls: list[str], number: int, tokens: int) -> None:
    beginning = number % BEGINNINGS
    text = f"Story {beginning}. {4 * WORDS}Client {number}: "
    for turn in range(TURNS):
        body = {"prompt": text, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
        data = json.dumps(body).encode()
        asked = Request(f"{urls[beginning % len(urls)]}/v1/completions", data, {"content-type": "application/json"})
        with urlopen(asked, timeout=600) as answer:
            text += json.load(answer)["choices"][0]["text"] + f" In turn {turn} they went to the park. "


def _metric(url: str, name: str) -> float:
    with urlopen(f"{url}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))
