"""An engine in a process of its own, as `cutset bench stages` times it: on stages, or with all layers in it.

PYTHON -m cutset.bench.stage_engine MODEL '{"threads": 1, "stages": ["ipc://…"]}' [--hop SECONDS]

It answers commands as `cutset.bench.child` says: a command is a method of `StageEngine`, its answer what that gives.
Times are those of `time.monotonic()`, which all processes of a machine share.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cutset.models.run.native  # noqa: F401  # libraries count as interpreter
from cutset.bench.child import answer_commands, prompt_ids
from cutset.config import load_settings
from cutset.engine import Engine, SamplingParams
from cutset.engine.draft_model import open_drafting
from cutset.engine.linked_stages import LinkedStages
from cutset.engine.outputs import Delta
from cutset.engine.step_pipeline import StepPipeline
from cutset.errors import EngineError
from cutset.models.files.source import open_source
from cutset.models.run.backend import build_executor, cache_blocks, choose, stored_dtype
from cutset.models.run.executor import Executor
from cutset.models.text.tokenizer import Tokenizer
from cutset.partition.hop import Hop

__all__ = ["StageEngine"]

FOREVER = 600.0  # seconds that a benchmark waits for stages


class StageEngine:
    """`options` are settings. `hop`: seconds that everything takes from party to party, emulated."""

    def __init__(self, model: Path, options: dict[str, Any], hop: float = 0.0) -> None:
        settings = load_settings({"prefix_caching": False, **options})
        source = open_source(model)
        self.spec, tokenizer = source.spec, Tokenizer.load(model)
        choice, context = choose(settings, stored_dtype(source)), settings.max_model_len or source.spec.context
        self.log: list[tuple[float, str]] = []  # what was said, and when
        self.stages: LinkedStages | None = None
        runs: Executor | StepPipeline
        drafting = open_drafting(settings, choice, self.spec, tokenizer)
        blocks = cache_blocks(self.spec, choice, settings, context, drafting.block_bytes)
        if settings.stages:
            pace = Hop(latency=hop) if hop else None
            self.stages = LinkedStages(source, settings, choice, context, log=self._say, hop=pace)
            runs, blocks = self.stages.pipeline, self.stages.blocks(blocks)
        else:
            runs, _ = build_executor(source, settings)
        logging.disable(logging.WARNING)  # of lost stages: whoever measures knows of them
        self.engine = Engine(
            runs,
            tokenizer,
            blocks=blocks,
            block_size=settings.block_size,
            max_batch_tokens=settings.max_batch_tokens,
            max_num_seqs=settings.max_num_seqs,
            max_model_len=settings.max_model_len or None,
            prefix_caching=settings.prefix_caching,
            kv_dtype=settings.kv_dtype,
            without_token=tokenizer.ids_without_token(self.spec.vocab_size).tolist(),
            drafter=drafting.open(blocks),
            draft_tokens=settings.speculate_tokens,
        )

    def decode(self, sequences: int, prompt: int, steps: int) -> dict[str, float]:
        """Tokens that all sequences got, and the seconds in which they did, while all of them decoded; and the seconds
        from the start to everybody's first token."""
        params = SamplingParams(max_tokens=steps + 1, temperature=0, ignore_eos=True)
        for number in range(sequences):
            self.engine.add(str(number), prompt_ids(prompt, self.spec.vocab_size, 300 + number), params)
        begun, all_at, tokens, until = time.monotonic(), 0.0, 0, 0.0
        waiting, open_ = {str(number) for number in range(sequences)}, True
        while self.engine.has_work:
            deltas = self._step()
            now = time.monotonic()
            if not waiting and open_:
                tokens, until = tokens + sum(len(delta.token_ids) for delta in deltas), now
            open_ = open_ and not any(delta.finished for delta in deltas)
            if waiting:
                waiting -= {delta.request_id for delta in deltas if delta.token_ids}
                all_at = now
        return {"tokens": tokens, "seconds": until - all_at, "first": all_at - begun}

    def passes(self, sequences: int, prompt: int, steps: int) -> dict[str, float]:
        """Seconds of a step with a row of each of these sequences, where no other step is on its way: the median."""
        params = SamplingParams(max_tokens=steps + 2, temperature=0, ignore_eos=True)
        names = [str(number) for number in range(sequences)]
        for number, name in enumerate(names):
            self.engine.add(name, prompt_ids(prompt, self.spec.vocab_size, 300 + number), params)
            self.engine.prefill(name)
        found = []
        for _ in range(steps):
            started = time.monotonic()
            self.engine.decode()
            found.append(time.monotonic() - started)
        for name in names:
            self.engine.abort(name)
        return {"seconds": statistics.median(found)}

    def first(self, prompt: int | Sequence[int]) -> dict[str, float]:
        """Seconds from a prompt, or so many tokens, to its first token."""
        ids = prompt_ids(prompt, self.spec.vocab_size) if isinstance(prompt, int) else prompt
        started = time.monotonic()
        self.engine.add("first", ids, SamplingParams(max_tokens=1, temperature=0, ignore_eos=True))
        while self.engine.has_work:
            self._step()
        return {"seconds": time.monotonic() - started}

    def answers(self, prompts: Sequence[Sequence[int]], params: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The tokens of all samples of all these requests together, when each token came, and what was said of stages.

        A request that fails has the error in the place of its tokens.
        """
        found: dict[str, Any] = {str(number): {} for number in range(len(prompts))}
        stamps: list[float] = []
        for number, (prompt, one) in enumerate(zip(prompts, params, strict=True)):
            self.engine.add(str(number), prompt, SamplingParams(**one))
        before, said = self.engine.stats(), len(self.log)
        while self.engine.has_work:
            for delta in self.engine.step():
                if delta.error is not None:
                    found[delta.request_id] = str(delta.error)
                elif delta.token_ids:
                    found[delta.request_id].setdefault(delta.index, []).extend(delta.token_ids)
                    stamps.append(time.monotonic())
        after = self.engine.stats()
        tokens = [one if isinstance(one, str) else [ids for _, ids in sorted(one.items())] for one in found.values()]
        return {
            "tokens": tokens,
            "stamps": stamps,
            "said": self.log[said:],
            "losses": after.losses - before.losses,
            "accepted": after.accepted_tokens - before.accepted_tokens,
        }

    def until_stages(self, count: int) -> dict[str, Any]:
        """Waits until so many stages are in use."""
        pipeline, end = self._linked.pipeline, time.monotonic() + FOREVER
        while pipeline.plan is None or len(pipeline.plan.stages) != count:
            if time.monotonic() > end:
                raise EngineError(f"there were never {count} stages in use")
            self._step()
            time.sleep(0.01)
        return {}

    def plan(self) -> dict[str, Any]:
        """The addresses of the stages in use, and the layers of each in words; the tokens that the cache holds."""
        pipeline = self._linked.pipeline
        stages = () if pipeline.plan is None else pipeline.plan.stages
        layers = [pipeline.layers_of(stage) for stage in stages]
        return {"stages": [one.worker for one in stages], "layers": layers, "cache": self.engine.cache_tokens}

    def cpu(self) -> dict[str, float]:
        """Seconds of a core that this process has used."""
        return {"seconds": time.process_time()}

    def bandwidth(self, size: int, threads: int) -> dict[str, float]:
        """Bytes a second at which so many threads read memory that no cache holds."""
        from cutset.kernels.native import extension

        native = extension()
        return {"rate": float(native.read_bandwidth(native.Pool(threads), size, 1))}

    def close(self) -> None:
        """Lets the stages go."""
        if self.stages is not None:
            self.stages.close()

    @property
    def _linked(self) -> LinkedStages:
        if self.stages is None:
            raise EngineError("this engine has no stages")
        return self.stages

    def _step(self) -> list[Delta]:
        deltas = self.engine.step()
        for delta in deltas:
            if delta.error is not None:
                raise delta.error
        return deltas

    def _say(self, line: str) -> None:
        self.log.append((time.monotonic(), line))


def perform(system: StageEngine, do: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Calls the method `do`."""
    found: dict[str, Any] = getattr(system, do)(**arguments)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("options", type=json.loads)
    parser.add_argument("--hop", type=float, default=0.0)
    args = parser.parse_args()
    answer_commands(lambda: StageEngine(args.model, args.options, args.hop), perform)
