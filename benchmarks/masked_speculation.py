"""`python -m benchmarks masked_speculation`: drafts from the text itself over an accelerator that is far away.

Mode `masked`, a constant number of drafts a step. The accelerator is a process of its own, reached over tcp through a
relay that holds every byte back, so that a call takes so much longer. Pads come from a second server on this machine,
made ahead of the answer, or are made here while it runs. Text that repeats itself, and text that doesn't; a penalty
below zero makes any model repeat itself. Both ways give the same tokens, which is looked at.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import delayed_relay
from benchmarks.targets import Target, targets_table
from cutset import LLM, SamplingParams
from cutset.bench.speculation import OTHER, REPEATING
from cutset.bench.turns import medians, started, take_turns
from cutset.cli.bench_rows import add_rounds, rows_table, save_rows
from cutset.cli.options import add_json
from cutset.cli.output import log
from cutset.compare.results import Row
from cutset.errors import EngineError, RequestError
from cutset.link.keys import new_keys, save_keys

__all__ = ["AGAINST", "TARGETS", "configure", "run"]

AGAINST = "decode against off"
SERVER, HERE = "pads of a second server", "pads made here"
TARGETS = (
    Target(
        "speculation, masked, a second server's pads", AGAINST, 1.8, True, f"cutset ngram, {SERVER}", "that repeats"
    ),
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", default="story", metavar="MODEL", help="default story")
    parser.add_argument("--hop", type=float, default=5.0, metavar="MS", help="of a call there and back (default 5)")
    parser.add_argument("--drafts", type=int, default=8, metavar="K", help="in every step (default 8)")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="of each answer (default 64)")
    add_rounds(parser)
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    if not 0 <= args.hop <= 1000 or args.tokens < 2 or not 1 <= args.drafts <= 64:
        raise RequestError("--hop must be from 0 to 1000, --tokens at least 2, --drafts from 1 to 64")
    rows: list[Row] = []
    with ExitStack() as stack:
        keys = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in ("accelerator", "pads", "client"):
            save_keys(new_keys(), name, keys)
        near = {name: stack.enter_context(_server(args.model, keys, name)) for name in ("accelerator", "pads")}
        relay = [sys.executable, delayed_relay.__file__, near["accelerator"].removeprefix("tcp://")]
        relay.append(str(args.hop / 2000))
        far = stack.enter_context(started(relay, r"relaying at (\S+)", name="the relay of the benchmark"))
        for where in (SERVER, HERE):
            with ExitStack() as models:
                llms = {
                    way: models.enter_context(_client(args, keys, far, near["pads"] if where == SERVER else "", way))
                    for way in ("off", "ngram")
                }
                rows += measured(llms, where, args)
    print(rows_table(rows))
    print(targets_table(rows, TARGETS))
    save_rows(args, rows, threads=1)
    return 0


def _server(model: str, keys: Path, name: str) -> Any:
    command = [sys.executable, "-m", "cutset", "accelerator", model, "--listen", "tcp://127.0.0.1:0", "--threads", "1"]
    allowed = keys / f"for-{name}"
    allowed.mkdir()
    (allowed / "client.pub").write_bytes((keys / "client.pub").read_bytes())
    command += ["--key", str(keys / f"{name}.key"), "--allow", str(allowed)]
    return started(command, r"listening on (\S+):", name=f"{name} of the benchmark")


def _client(args: argparse.Namespace, keys: Path, far: str, pads: str, way: str) -> LLM:
    settings: dict[str, Any] = {"offload": far, "mode": "masked", "threads": 1, "cache_mib": 64, "max_num_seqs": 1}
    settings |= {"key": keys / "client.key", "accelerator_key": keys / "accelerator.pub", "generation_config": False}
    if pads:
        settings |= {"pads_from": pads, "pads_key": keys / "pads.pub", "pads_same_host": True}
    else:
        settings |= {"pads": "inline"}
    settings |= {"speculate": way, "speculate_tokens": args.drafts}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that both servers are on this machine is known here
        return LLM(args.model, **settings)


def measured(llms: dict[str, LLM], where: str, args: argparse.Namespace) -> list[Row]:
    """Both ways in turns, over both texts."""
    rows: list[Row] = []
    length: dict[str, Any] = {"max_tokens": args.tokens, "ignore_eos": True}
    for kind, text, params in (
        ("repeats itself", REPEATING, SamplingParams(temperature=0, frequency_penalty=-2, **length)),
        ("doesn't repeat itself", OTHER, SamplingParams(seed=1, **length)),
    ):
        workload = f"{llms['off'].name}, text that {kind}, {args.hop:g} ms a call, {args.drafts} drafts"

        def turn(number: int, workload: str = workload, text: str = text, params: Any = params) -> Iterator[Row]:
            rates, answers = dict[str, float](), list[list[int]]()
            for way in sorted(llms, reverse=number % 2 == 0):
                answer, rates[way], found = _decoded(llms[way], text, params, args)
                answers.append(answer)
                for metric, unit, value in (("decode", "tok/s", rates[way]), *found):
                    yield Row(workload, f"cutset {way}, {where}", metric, value, unit)
            if answers[0] != answers[1]:
                raise EngineError(f"{workload}: speculation changed a token")
            yield Row(workload, f"cutset ngram, {where}", AGAINST, rates["ngram"] / rates["off"], "x")

        rows += take_turns(f"{workload}, {where}", [turn], args.rounds, log)
    return medians(rows)


def _decoded(
    llm: LLM, text: str, params: SamplingParams, args: argparse.Namespace
) -> tuple[list[int], float, list[tuple[str, str, float]]]:
    """An answer, its tokens a second after the first one, and what it took: pads of drafts that were wrong, and how
    many tokens a step gave."""
    assert llm.offload is not None
    pads = llm.offload.linears.pads
    assert pads is not None
    if llm.settings.pads_from:
        most = pads.memory // pads.row_bytes
        pads.fill(min(most, len(llm.encode(text)) + args.tokens * (1 + args.drafts)), 600.0)
    before, used = llm.stats(), pads.counters().used
    tokens, rate = list[int](), 0.0
    for delta in llm.stream(text, params):
        if delta.error is not None:
            raise delta.error
        tokens += delta.token_ids
        if delta.timings is not None:
            rate = delta.timings.decode_tps or 0.0
    after = llm.stats()
    steps = after.steps - before.steps
    wrong = after.drafted_tokens - before.drafted_tokens - (after.accepted_tokens - before.accepted_tokens)
    matrices = max(1, len(pads.matrices))
    found = [("tokens a step", "tok", len(tokens) / max(1, steps))]
    found.append(("rows of pads at a matrix", "rows", (pads.counters().used - used) / matrices))
    found.append(("of them for drafts that were wrong", "rows", float(wrong)))
    return tokens, rate, found
