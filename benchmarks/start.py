"""From the start of a process to its first token, and the memory of a loaded model at rest."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cutset.bench.decode import own_process
from cutset.bench.turns import Turn, environment, medians, take_turns
from cutset.compare.results import Row
from cutset.errors import EngineError

__all__ = ["LLAMA", "memory_rows", "start_rows"]

TIMEOUT_S = 600.0
# What `cutset generate` does, with llama-cpp-python: load, read the prompt, write the likeliest token.
LLAMA = """
import sys
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=512, n_threads=int(sys.argv[2]), n_threads_batch=int(sys.argv[2]), verbose=False)
model.eval([int(word) for word in sys.argv[3].split()])
print(model.sample(temp=0.0), flush=True)
"""


def seconds_to_first_byte(argv: list[str], cache: str) -> float:
    """From the start of a process to its first byte on stdout; `cache` is where it may remember things. Raises
    EngineError if none comes."""
    variables = environment() | {"XDG_CACHE_HOME": cache}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)  # installed programs have their bytecode, so it may be written
    start = time.perf_counter()
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=variables) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        elapsed = time.perf_counter() - start
        process.stdout.read()
        if process.wait(TIMEOUT_S) or not first:
            raise EngineError(f"{argv[0]} ended with {process.returncode} before its first token")
    return elapsed


def start_rows(
    folder: Path, gguf: Path | None, python: str, threads: int, rounds: int, tell: Callable[[str], None]
) -> list[Row]:
    """Seconds to the first token: the bundled model, and an integer checkpoint in `folder` beside llama.cpp on the same
    weights in `gguf`. In turns; the first round warms the page cache, compares the digests and doesn't count."""
    ids = [5 + i for i in range(16)]
    ours = [sys.executable, "-m", "cutset.cli"]
    prompt = " ".join(f"t{i}" for i in ids)
    generate = ["generate", "--max-tokens", "1", "--ignore-eos", "--threads", str(threads), "--prompt"]
    commands = {
        ("start: cutset --help", "cutset"): [*ours, "--help"],
        ("start: bundled model", "cutset native float32"): [*ours, *generate, "Once upon a time", "story"],
        ("start: w246", "cutset native int8"): [*ours, *generate, prompt, str(folder)],
    }
    always = [*commands["start: w246", "cutset native int8"], "--verify", "always"]
    commands["start: w246, digests compared", "cutset native int8"] = always
    if gguf is not None:
        words = " ".join(map(str, ids))
        commands["start: w246", "llama.cpp q8_0"] = [python, "-c", LLAMA, str(gguf), str(threads), words]

    def turn_of(workload: str, system: str, command: list[str], cache: str) -> Turn:
        def turn(number: int) -> Iterator[Row]:
            try:
                yield Row(workload, system, "first byte", seconds_to_first_byte(command, cache), "s")
            except EngineError as error:
                tell(f"{workload}: without {system}: {error}")

        return turn

    with tempfile.TemporaryDirectory() as cache:
        turns = [turn_of(*key, command, cache) for key, command in commands.items()]
        return medians(take_turns("start", turns, rounds, tell))


def memory_rows(name: str, folder: Path, system: str, threads: int) -> list[Row]:
    """Resident memory of a loaded checkpoint less that of the interpreter with its libraries, as a share of the bytes
    of its weights. No KV cache is resident yet."""
    with own_process(system, folder, threads) as process:
        used = process.ready["rss"] - process.ready["rss_before"]
    share = used / (folder / "model.safetensors").stat().st_size * 100
    return [Row(f"memory at rest: {name}", f"cutset {system}", "share of weights", share, "%")]
