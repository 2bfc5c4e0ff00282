"""`cutset bench speculation`: decoding with drafts from the text itself, beside decoding without, in turns.

A hop makes each step take that much longer, as links to other stages would. A penalty below zero makes any model repeat
itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cutset.bench.turns import medians, take_turns
from cutset.compare.results import Row
from cutset.config import Settings
from cutset.engine import Engine, SamplingParams
from cutset.engine.drafting import NgramDrafter
from cutset.engine.local_pipeline import LocalPipeline
from cutset.engine.step_pipeline import StagesLost, StepResult
from cutset.errors import EngineError
from cutset.llm import LLM
from cutset.models.run.executor import Executor

__all__ = ["run_speculation"]

REPEATING = "The red fox saw the big tree. The old man said: Look at the red fox! " * 6
OTHER = "Once upon a time"
BLOCK = 16  # tokens


class _Delayed(LocalPipeline):
    """Steps take some seconds longer."""

    def __init__(self, executor: Executor, seconds: float) -> None:
        super().__init__([executor])
        self._seconds = seconds

    def receive(self, *, wait: bool) -> StepResult | StagesLost | None:
        time.sleep(self._seconds)
        return super().receive(wait=wait)


def run_speculation(
    model: str,
    settings: Settings,
    *,
    hop: float,  # seconds
    tokens: int,
    rounds: int,
    log: Callable[[str], None],
) -> list[Row]:
    """Tokens a second of text that repeats itself, and of text that doesn't; and how they compare, round by round.

    Raises EngineError if an answer isn't the one without speculation.
    """
    with LLM(model, settings=settings) as llm:
        room = max(len(llm.encode(REPEATING)), len(llm.encode(OTHER))) + tokens
        engines = {
            name: Engine(
                _Delayed(llm.executor, hop),
                llm.tokenizer,
                blocks=-(-room // BLOCK) + 4,
                block_size=BLOCK,
                prefix_caching=False,
                drafter=NgramDrafter() if name == "ngram" else None,
                draft_tokens=settings.speculate_tokens,
            )
            for name in ("off", "ngram")
        }
        length: dict[str, Any] = {"max_tokens": tokens, "ignore_eos": True}
        rows = list[Row]()
        for kind, text, params in (
            ("repeats itself", REPEATING, SamplingParams(temperature=0, frequency_penalty=-2, **length)),
            ("doesn't repeat itself", OTHER, SamplingParams(seed=1, **length)),
        ):
            workload = f"{llm.name}, text that {kind}, {hop * 1e3:g} ms a hop"
            prompt = llm.encode(text).tolist()
            rows += take_turns(workload, [_turn(workload, engines, prompt, params)], rounds, log)
    return medians(rows)


def _turn(
    workload: str, engines: dict[str, Engine], prompt: Sequence[int], params: SamplingParams
) -> Callable[[int], Iterator[Row]]:
    def turn(number: int) -> Iterator[Row]:
        rates, answers = dict[str, float](), list[list[int]]()
        for name in sorted(engines, reverse=number % 2 == 0):
            before = engines[name].stats()
            answer, rates[name] = _decoded(engines[name], prompt, params)
            answers.append(answer)
            yield Row(workload, f"cutset {name}", "decode", rates[name], "tok/s")
            if name == "ngram":
                steps = engines[name].stats().steps - before.steps
                yield Row(workload, f"cutset {name}", "tokens a step", len(answer) / steps, "tok")
        if answers[0] != answers[1]:
            raise EngineError(f"{workload}: speculation changed a token")
        yield Row(workload, "cutset ngram", "decode against off", rates["ngram"] / rates["off"], "x")

    return turn


def _decoded(engine: Engine, prompt: Sequence[int], params: SamplingParams) -> tuple[list[int], float]:
    """An answer, and its tokens a second after the first one."""
    engine.add("a", prompt, params)
    tokens, rate = list[int](), 0.0
    while engine.has_work:
        for delta in engine.step():
            if delta.error is not None:
                raise delta.error
            tokens += delta.token_ids
            if delta.timings is not None:
                rate = delta.timings.decode_tps or 0.0
    return tokens, rate
