"""`cutset bench stages`, faults: stages killed and stopped in the middle of answers.

What counts is when the engine knew, when the answers went on, and that they are those of one place. Computing again
what the lost stage knew takes its time on those that are left; that is measured, too, and what goes beyond it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from cutset.bench.child import prompt_ids
from cutset.bench.stage_models import MODELS, StageBench
from cutset.bench.stage_workers import BenchStages, cores, engine_process
from cutset.bench.turns import Process, medians
from cutset.compare.results import Row
from cutset.errors import EngineError

__all__ = ["run_faults"]

ANSWERS = 4
PROMPT = 32  # tokens
GONE = "is gone"  # in what a coordinator says
OPTIONS: dict[str, Any] = {"max_model_len": 512, "cache_mib": 128, "max_num_seqs": ANSWERS}


def run_faults(bench: StageBench) -> list[Row]:
    """`kill -9` of each stage in turn, and SIGSTOP."""
    a, b = cores(2)
    model, tokens = bench.model("w246"), bench.some(96, 64)
    vocab, workload = MODELS[bench.named("w246")].vocab, f"{bench.named('w246')} int8, {ANSWERS} answers of {tokens}"
    work: dict[str, Any] = {
        "prompts": [prompt_ids(PROMPT, vocab, 300 + i) for i in range(ANSWERS)],
        "params": [
            {"max_tokens": tokens, "temperature": float(i % 2), "seed": i, "ignore_eos": True} for i in range(ANSWERS)
        ],
    }
    with engine_process(model, [a], OPTIONS) as whole:
        expected = whole.call(do="answers", **work)["tokens"]
    rows = list[Row]()
    chance = random.Random(1)
    with BenchStages([a, b], model) as stages, engine_process(model, [a, b], OPTIONS | stages.settings()) as engine:
        started = time.monotonic()
        if engine.call(do="answers", **work)["tokens"] != expected:
            raise EngineError(f"{workload}: two stages give other tokens than one place")
        usual = time.monotonic() - started
        for what, act, times in (
            ("kill -9", stages.kill, bench.some(20, 2)),
            ("SIGSTOP", stages.freeze, bench.some(4, 1)),
        ):
            for number in range(times):
                name = stages.names[number % 2]
                figures = list(_fault(engine, stages, act, name, work, usual * chance.uniform(0.2, 0.7), expected))
                rows += [Row(f"{workload}, {what}", "cutset two stages", *figure) for figure in figures]
                bench.log(f"{what} {number + 1} of {times}")
    counted = [row for row in rows if row.unit == "answers"]
    found = medians(row for row in rows if row.unit != "answers")
    for row in list(found):
        longest = max(other.value for other in rows if other.key == row.key)
        found.append(Row(row.workload, row.system, f"{row.metric}, longest", longest, row.unit))
    for key in dict.fromkeys(row.key for row in counted):
        total = sum(row.value for row in counted if row.key == key)
        found.append(Row(key[0], key[2], key[1], total, "answers"))
    return found


def _fault(
    engine: Process,
    stages: BenchStages,
    act: Callable[[str], None],
    name: str,
    work: dict[str, Any],
    moment: float,
    expected: list[Any],
) -> Iterator[tuple[str, float, str]]:
    """Metric, value and unit of a stage that goes after `moment` seconds. It comes back in the end."""
    engine.ask(do="answers", **work)
    time.sleep(moment)
    at = time.monotonic()
    act(name)
    found = engine.answer()
    equal = sum(one == other for one, other in zip(found["tokens"], expected, strict=True))
    yield "answers that are equal", equal, "answers"
    yield "answers that differ or failed", len(expected) - equal, "answers"
    known = next((when for when, line in found["said"] if when > at and GONE in line), None)
    on = None if known is None else next((stamp for stamp in found["stamps"] if stamp > known), None)
    if known is not None and on is not None:
        before = sum(stamp < known for stamp in found["stamps"]) // len(expected)
        again = engine.call(do="decode", sequences=len(expected), prompt=PROMPT + before, steps=1)["first"]
        yield "found", 1e3 * (known - at), "ms"
        yield "going on", on - at, "s"
        yield "computing again", again, "s"
        yield "going on, beyond computing again", max(0.0, on - at - again), "s"
    stages.kill(name)  # it may only be stopped
    stages.start(name)
    engine.call(do="until_stages", count=len(stages.names))
