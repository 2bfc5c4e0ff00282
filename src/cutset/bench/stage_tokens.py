"""`cutset bench stages`, tokens: whether 1 to 4 stages write what one place writes, whatever happens to them.

The right answers come from an engine with all layers, one request at a time. Stages answer many together, with
speculation and without, and one of them is killed in the middle, or none.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutset.bench.stage_models import StageBench
from cutset.bench.stage_workers import BenchStages, cores, engine_process
from cutset.compare.results import Row
from cutset.models.families import families
from cutset.models.random import RandomModel
from cutset.models.registry import BUNDLED
from cutset.models.text.tokenizer import Tokenizer

__all__ = ["run_tokens"]

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"  # in the user's cache of models
TEXTS = (
    "Once upon a time there was a little girl who",
    "The red fox saw the big tree. The red fox saw the big tree. The red fox",
    "The sea is",
    "Tom said: look at me! Tom said: look at me! Tom said:",
)
OPTIONS: dict[str, Any] = {"max_model_len": 512, "cache_mib": 64, "max_num_seqs": 16}


class _WindowedModel(RandomModel):
    """A random model whose layers see the last 24 tokens alone."""

    def config(self) -> dict[str, Any]:
        """See RandomModel."""
        family = families()["mistral"]
        windowed = {"model_type": family.model_type, "architectures": [family.architectures[0]], "sliding_window": 24}
        return super().config() | windowed


RANDOM = {
    "random Qwen3-MoE": RandomModel(experts=8, top_k=2, qk_norm=True, layers=6, hidden=128, vocab=600, max_pos=512),
    "random model with sliding windows": _WindowedModel(layers=6, hidden=128, vocab=600, max_pos=512),
}


@dataclass(frozen=True)
class _Asked:
    """What a model is asked, and the right answers."""

    name: str
    path: Path
    work: dict[str, Any]
    expected: list[Any]


def run_tokens(bench: StageBench) -> list[Row]:
    """Answers that are equal and that differ, by model and kind of run."""
    chosen, rows = cores(2), list[Row]()
    for asked in _asked(bench, bench.some(50, 4)):
        for count in (1, 2) if bench.quick else (1, 2, 3, 4):
            with BenchStages([chosen[i % 2] for i in range(count)], asked.path) as stages:
                for speculate in ("off", "ngram"):
                    equal = _compared(asked, stages, chosen, speculate, seed=count)
                    for kills, good in equal.items():
                        words = f"{count} {'stage' if count == 1 else 'stages'}, speculation {speculate}, {kills}"
                        where = f"tokens of {asked.name}", f"cutset {words}"
                        rows.append(Row(*where, "answers that are equal", good, "answers"))
                        rows.append(Row(*where, "answers that differ", len(asked.expected) - good, "answers"))
            bench.log(f"{asked.name}: {count} of 4 stages")
    for metric in ("answers that are equal", "answers that differ"):
        total = sum(row.value for row in rows if row.metric == metric)
        rows.append(Row("tokens of all", "cutset stages", metric, total, "answers"))
    return rows


def _compared(asked: _Asked, stages: BenchStages, chosen: list[int], speculate: str, seed: int) -> dict[str, int]:
    """How many answers are equal without a kill and with one."""
    chance, equal = random.Random(seed), dict[str, int]()
    options = OPTIONS | {"speculate": speculate} | stages.settings()
    with engine_process(asked.path, chosen, options) as engine:
        started = time.monotonic()
        found = engine.call(do="answers", **asked.work)["tokens"]
        usual = time.monotonic() - started
        equal["no kill"] = sum(one == other for one, other in zip(found, asked.expected, strict=True))
        engine.ask(do="answers", **asked.work)
        time.sleep(usual * chance.uniform(0.2, 0.6))
        name = chance.choice(stages.names)
        stages.kill(name)
        stages.start(name)
        found = engine.answer()["tokens"]
        equal["a kill"] = sum(one == other for one, other in zip(found, asked.expected, strict=True))
    return equal


def _asked(bench: StageBench, count: int) -> Iterator[_Asked]:
    """So many prompts for each model."""
    models = dict(BUNDLED)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cutset" / "models" / SMOLLM2
    if cache.is_file():
        models["SmolLM2"] = cache
    else:
        bench.log(f"without SmolLM2: {SMOLLM2} isn't in the cache of models")
    for name, random_model in RANDOM.items():
        models[name] = bench.folder / name.replace(" ", "-")
        random_model.write_checkpoint(models[name])
    for name, path in models.items():
        vocab = RANDOM[name].vocab if name in RANDOM else 0
        work = _work(count, path, vocab)
        with engine_process(path, cores(1), OPTIONS | {"max_num_seqs": 1}) as whole:
            expected = whole.call(do="answers", **work)["tokens"]
        yield _Asked(name, path, work, expected)


def _work(count: int, path: Path, vocab: int) -> dict[str, Any]:
    """Greedy, sampled, long and several samples with penalties, in turns. `vocab`: of a model without texts."""
    chance = random.Random(7)
    tokenizer = None if vocab else Tokenizer.load(path)
    prompts, params = list[list[int]](), list[dict[str, Any]]()
    for number in range(count):
        if tokenizer is None:
            some = [chance.randrange(3, vocab) for _ in range(chance.randrange(4, 30))]
        else:
            some = tokenizer.encode(TEXTS[number // 4 % len(TEXTS)]).tolist()
        kind = number % 4
        own: dict[str, Any] = {"max_tokens": 24, "temperature": 0.0, "ignore_eos": True}
        if kind == 1:
            own |= {"temperature": 1.0, "seed": number, "top_p": 0.95}
        elif kind == 2:
            some, own = (some * 40)[:240], own | {"max_tokens": 16}
        elif kind == 3:
            own |= {"temperature": 0.8, "seed": number, "n": 3, "presence_penalty": 0.5, "repetition_penalty": 1.1}
        prompts.append(some)
        params.append(own)
    return {"prompts": prompts, "params": params}
