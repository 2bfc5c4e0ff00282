"""`cutset bench serve --mixed MODEL`: many clients, half of them under a JSON schema, beside the engine alone.

The engine runs in a process of its own, which is this file: PYTHON -m cutset.bench.serve_mixed MODEL --threads N
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator

from cutset.bench.child import answer_commands, timed
from cutset.bench.serve import server
from cutset.bench.serve_load import ask_together
from cutset.bench.structured import ENDLESS, ENDLESS_SCHEMA, PROMPT
from cutset.bench.turns import Process, medians, take_turns
from cutset.compare.results import Row
from cutset.engine.params import SamplingParams
from cutset.llm import LLM

__all__ = ["MixedEngine", "run_mixed"]

ENGINE, SERVER = "cutset engine", "cutset server"


class MixedEngine:
    """The engine alone, with the same prompts and parameters as the clients."""

    def __init__(self, model: str, threads: int) -> None:
        self.llm = LLM(
            model, threads=threads, prefix_caching=False, generation_config=False, cache_mib=256, dtype="auto"
        )

    def mixed(self, clients: int, tokens: int) -> float:
        """Seconds for all answers."""
        params = [
            SamplingParams(
                temperature=0, max_tokens=tokens, ignore_eos=True, structured_outputs=ENDLESS if number % 2 else None
            )
            for number in range(clients)
        ]
        start = time.perf_counter()
        found = self.llm.generate(_prompts(clients), params)
        seconds = time.perf_counter() - start
        assert all(len(one.token_ids) == tokens for one in found)
        return seconds

    def close(self) -> None:
        """Ends the engine."""
        self.llm.close()


def run_mixed(
    model: str, *, clients: int, tokens: int, threads: int, rounds: int, log: Callable[[str], None]
) -> list[Row]:
    """Tokens a second of the engine alone and of all clients together, in turns, and the median of their ratios."""
    name = f"serve {model.rpartition('/')[2]}: {clients} clients, half under a schema, {tokens} tokens each"
    more = [{"guided_json": ENDLESS_SCHEMA} if number % 2 else {} for number in range(clients)]
    command = [sys.executable, "-m", "cutset.bench.serve_mixed", model, "--threads", str(threads)]
    with (
        Process(command, name="the engine", threads=threads, quiet=True) as engine,
        server(model, threads, ("--dtype", "auto")) as url,
    ):

        def turn(number: int) -> Iterator[Row]:
            rates = {}
            for system in (ENGINE, SERVER) if number % 2 else (SERVER, ENGINE):
                if system == ENGINE:
                    seconds = engine.call(do="mixed", clients=clients, tokens=tokens)["seconds"]
                else:
                    seconds, _ = ask_together(url, _prompts(clients), tokens, more=more)
                rates[system] = clients * tokens / seconds
                yield Row(name, system, "generate", rates[system], "tok/s")
            yield Row(name, SERVER, "against the engine alone", rates[SERVER] / rates[ENGINE], "x")

        return medians(take_turns(name, [turn], rounds, log))


def _prompts(clients: int) -> list[str]:
    return [f"{number}. {PROMPT}" for number in range(clients)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    answer_commands(lambda: MixedEngine(args.model, args.threads), timed)
