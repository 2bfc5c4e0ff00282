"""`cutset bench serve`: what HTTP costs the engine, and what many clients get of it.

The engine alone (`LLM.generate`) and the server run in processes of their own over the same integer checkpoint, asked
in turns with the same prompts and the same number of threads. The clients run on the same machine and count too.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cutset.bench.child import prompt_ids
from cutset.bench.decode import own_process
from cutset.bench.serve_load import ask_together
from cutset.bench.turns import Process, medians, started, take_turns
from cutset.compare.results import Row, summarise
from cutset.errors import EngineError

__all__ = ["ENGINE", "SERVER", "Load", "run_load"]

ENGINE, SERVER = "cutset engine int8", "cutset server int8"
MANY, FIRST = "tokens of all clients", "time to first token"
COMPARED = 4  # times that engine and server are compared in a round: they differ by less than one run from the next


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked: tokens of a prompt and of its answer, sequences in a batch, and numbers of clients."""

    name: str
    prompt: int = 128
    decode: int = 64
    batch: int = 8
    clients: tuple[int, ...] = (1, 4, 16)  # rising
    each: int = 3  # answers that a client asks for, one after another


@contextlib.contextmanager
def server(model: Path | str, threads: int, options: Sequence[str] = ("--dtype", "int8")) -> Iterator[str]:
    """`cutset serve` over a model, without the prefix cache; its address. Raises EngineError."""
    command = [sys.executable, "-m", "cutset.cli", "serve", str(model), "--port", "0", *options]
    command += ["--threads", str(threads), "--no-prefix-caching", "--no-generation-config", "--cache-mib", "256"]
    with started(command, r"(http://\S+?:[0-9]+)", name="the server", threads=threads) as url:
        _wait(url)
        yield url


def run_load(
    load: Load, folder: Path, vocab: int, *, threads: int, rounds: int, log: Callable[[str], None]
) -> list[Row]:
    """The rows of one load."""
    prompts = [prompt_ids(load.prompt, vocab, 300 + i) for i in range(max(load.batch, *load.clients))]
    with own_process("native int8", folder, threads) as engine, server(folder, threads) as url:

        def compare(number: int) -> Iterator[Row]:
            yield from _compare(engine, url, load, prompts)

        def many(number: int) -> Iterator[Row]:
            for count in load.clients:
                at = f"serve {load.name}: {count} clients, {load.each} answers of {load.decode} each"
                seconds, answers = ask_together(url, prompts[:count], load.decode, each=load.each)
                yield Row(at, SERVER, MANY, sum(answer.tokens for answer in answers) / seconds, "tok/s")
                for answer in answers:
                    yield Row(at, SERVER, FIRST, 1e3 * answer.first_s, "ms")

        turns = [compare] * COMPARED + [many]
        measured = take_turns(load.name, turns, rounds, log)
    return _rows(load, measured)


def _compare(engine: Process, url: str, load: Load, prompts: Sequence[Sequence[int]]) -> Iterator[Row]:
    """A batch by both: tokens a second with the prompts' prefill and after it."""
    steps, batch = load.decode, load.batch
    at = f"serve {load.name}: prompt {load.prompt}, {batch} sequences of {steps}"
    seconds = engine.call(do="generate", sequences=batch, prompt=load.prompt, steps=steps)["seconds"]
    whole, answers = ask_together(url, prompts[:batch], steps + 1)
    first = max(answer.first_s for answer in answers)
    rates = {}
    for system, prefill, decode in ((ENGINE, *seconds), (SERVER, first, whole - first)):
        rates[system] = batch * (steps + 1) / (prefill + decode)
        yield Row(at, system, "generate", rates[system], "tok/s")
        yield Row(at, system, "decode", batch * steps / max(decode, 1e-9), "tok/s")
    yield Row(at, SERVER, "share of the engine's tokens/s", 100 * rates[SERVER] / rates[ENGINE], "%")


def _rows(load: Load, measured: Sequence[Row]) -> list[Row]:
    """Medians; for the first tokens the percentile of all answers too, and how the rate grows with the clients."""
    rows: list[Row] = []
    least: list[float] = []
    for row in medians(measured):
        values = [other.value for other in measured if other.key == row.key]
        if row.metric == FIRST:
            ordered = sorted(values)
            late = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
            rows.append(replace(row, metric=f"{FIRST}, median", spread=None))
            rows.append(Row(row.workload, row.system, f"{FIRST}, p95", late, row.unit))
            continue
        rows.append(row)
        if row.metric == MANY:
            least = least or values
            if values is not least:
                ratios = [some / one for some, one in zip(values, least, strict=True)]
                metric = f"times the tokens/s of {min(load.clients)} client"
                rows.append(summarise(row.workload, row.system, metric, ratios, "x"))
    return rows


def _wait(url: str) -> None:
    """Until the server listens; it says where before that."""
    import time
    import urllib.error
    import urllib.request

    end = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except urllib.error.URLError:
            if time.monotonic() > end:
                raise EngineError(f"nobody answers at {url}") from None
            time.sleep(0.02)
