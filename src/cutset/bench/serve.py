"""`cutset bench serve`: what HTTP costs the engine, and what many clients get of it.

The engine alone (`LLM.generate`) and the server run in processes of their own over the same integer checkpoint, asked
in turns with the same prompts and the same number of threads. The clients run on the same machine and count too.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cutset.bench.decode import System
from cutset.bench.opponents import prompt_ids
from cutset.bench.serve_load import ask_together
from cutset.compare.results import Row, summarise
from cutset.errors import EngineError
from cutset.link.launch import PIPE, Child, environment

__all__ = ["ENGINE", "SERVER", "Load", "run_load"]

ENGINE, SERVER = "cutset engine int8", "cutset server int8"
COMPARED = 4  # times that engine and server are compared in a round: they differ by less than one run from the next


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked: tokens of a prompt and of its answer, sequences in a batch, and numbers of clients."""

    name: str
    prompt: int = 128
    decode: int = 64
    batch: int = 8
    clients: tuple[int, ...] = (1, 4, 16)
    each: int = 3  # answers that a client asks for, one after another


@contextlib.contextmanager
def server(folder: Path, threads: int) -> Iterator[str]:
    """`cutset serve` over a checkpoint, without the prefix cache; its address. Raises EngineError."""
    command = ["cutset.cli", "serve", str(folder), "--port", "0", "--dtype", "int8"]
    command += ["--threads", str(threads), "--no-prefix-caching", "--no-generation-config", "--cache-mib", "256"]
    child = Child("the server", command, env=environment(threads, drop=("CUTSET_", "OMP_")), stderr=PIPE)
    try:
        url = child.until(r"http://\S+?:[0-9]+")[0]
        _wait(url)
        yield url
    finally:
        child.end(20)


def run_load(
    load: Load, folder: Path, vocab: int, *, threads: int, rounds: int, tell: Callable[[str], None]
) -> list[Row]:
    """The rows of one load."""
    prompts = [prompt_ids(load.prompt, vocab, 300 + i) for i in range(max(load.batch, *load.clients))]
    engine = System("native int8", folder, threads, sys.executable)
    rates: dict[tuple[str, str], list[float]] = {}
    firsts: dict[int, list[float]] = {count: [] for count in load.clients}
    shares: list[float] = []
    many: dict[int, list[float]] = {count: [] for count in load.clients}
    try:
        with server(folder, threads) as url:
            for number in range(-1, rounds):  # one round to warm up
                for _ in range(COMPARED if number >= 0 else 1):
                    found = _compare(engine, url, load, prompts)
                    if number >= 0:
                        for key, value in found.items():
                            rates.setdefault(key, []).append(value)
                        shares.append(100 * found[SERVER, "generate"] / found[ENGINE, "generate"])
                for count in load.clients:
                    seconds, answers = ask_together(url, prompts[:count], load.decode, each=load.each)
                    if number >= 0:
                        many[count].append(sum(answer.tokens for answer in answers) / seconds)
                        firsts[count] += [answer.first_s for answer in answers]
                tell(f"{load.name}: round {number + 1} of {rounds}")
    finally:
        engine.close()
    return _rows(load, rates, shares, many, firsts)


def _compare(engine: System, url: str, load: Load, prompts: Sequence[Sequence[int]]) -> dict[tuple[str, str], float]:
    """One round of a batch: tokens a second with the prompts' prefill and after it, of both."""
    steps, batch = load.decode, load.batch
    seconds = engine.ask({"do": "generate", "sequences": batch, "prompt": load.prompt, "steps": steps})
    whole, answers = ask_together(url, prompts[:batch], steps + 1)
    first = max(answer.first_s for answer in answers)
    found = {}
    for system, prefill, decode in ((ENGINE, *seconds), (SERVER, first, whole - first)):
        found[system, "generate"] = batch * (steps + 1) / (prefill + decode)
        found[system, "decode"] = batch * steps / max(decode, 1e-9)
    return found


def _rows(
    load: Load,
    rates: dict[tuple[str, str], list[float]],
    shares: Sequence[float],
    many: dict[int, list[float]],
    firsts: dict[int, list[float]],
) -> list[Row]:
    at = f"serve {load.name}: prompt {load.prompt}, {load.batch} sequences of {load.decode}"
    rows = [summarise(at, system, metric, values, "tok/s") for (system, metric), values in rates.items()]
    rows.append(summarise(at, SERVER, "share of the engine's tokens/s", shares, "%"))
    least = min(load.clients)
    for count, values in many.items():
        at = f"serve {load.name}: {count} clients, {load.each} answers of {load.decode} each"
        rows.append(summarise(at, SERVER, "tokens of all clients", values, "tok/s"))
        ordered = sorted(firsts[count])
        rows.append(Row(at, SERVER, "time to first token, median", 1e3 * statistics.median(ordered), "ms"))
        late = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
        rows.append(Row(at, SERVER, "time to first token, p95", 1e3 * late, "ms"))
        if count != least:
            ratios = [some / one for some, one in zip(values, many[least], strict=True)]
            rows.append(summarise(at, SERVER, f"times the tokens/s of {least} client", ratios, "x"))
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
