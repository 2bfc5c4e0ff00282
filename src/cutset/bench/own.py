"""Cutset in a process of its own, as `cutset bench decode` times it.

PYTHON -m cutset.bench.own "native int8" CHECKPOINT --threads N
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import cutset.models.run.native  # noqa: F401  # libraries count as interpreter
from cutset.bench.child import answer_commands, prompt_ids, timed
from cutset.engine.params import SamplingParams
from cutset.llm import LLM

__all__ = ["Own"]


class Own:
    """One backend in one dtype: `system` as "native int8". `adapters` are LoRA adapters by name."""

    def __init__(self, system: str, folder: Path, threads: int, adapters: Mapping[str, Path] | None = None) -> None:
        backend, dtype = system.split(" ")
        options: dict[str, Any] = {"prefix_caching": False, "cache_mib": 256, "max_num_seqs": 8}
        options["generation_config"] = False
        self.llm = LLM(folder, adapters=adapters, backend=backend, dtype=dtype, threads=threads, **options)
        self.threads = threads

    def forward(self, batch: int, tokens: int) -> float:
        """Seconds of one pass over `batch` sequences."""
        from cutset.compare.forward import run_forward

        ids = np.array([prompt_ids(tokens, self.llm.spec.vocab_size, i) for i in range(batch)], dtype=np.int32)
        return run_forward(self.llm.executor, (ids, np.ones(ids.shape, dtype=bool))).seconds[0]

    def generate(
        self, sequences: int, prompt: int, steps: int, adapters: Sequence[str | None] | None = None
    ) -> tuple[float, float]:
        """Seconds to the first tokens of all sequences, and of `steps` more of each; `adapters`: one each."""
        prompts = self.prompts(sequences, prompt)
        start = time.perf_counter()
        self.llm.generate(prompts, SamplingParams(max_tokens=1, temperature=0, ignore_eos=True), adapter=adapters)
        middle = time.perf_counter()
        params = SamplingParams(max_tokens=steps + 1, temperature=0, ignore_eos=True)
        self.llm.generate(prompts, params, adapter=adapters)
        first = middle - start
        return first, time.perf_counter() - middle - first

    def prompts(self, sequences: int, tokens: int) -> list[list[int]]:
        """What `generate` continues."""
        return [prompt_ids(tokens, self.llm.spec.vocab_size, 300 + i) for i in range(sequences)]

    def logits(self, tokens: int) -> list[float]:
        """What follows a prompt."""
        from cutset.compare.forward import run_forward

        ids = np.array([prompt_ids(tokens, self.llm.spec.vocab_size)], dtype=np.int32)
        found: list[float] = (
            run_forward(self.llm.executor, (ids, np.ones(ids.shape, dtype=bool))).logits[0, -1].tolist()
        )
        return found

    def bandwidth(self, size: int) -> float:
        """Bytes a second at which these threads read memory that no cache holds."""
        from cutset.kernels.native import extension

        native = extension()
        return float(native.read_bandwidth(native.Pool(self.threads), size, 1))

    def close(self) -> None:
        """Ends the engine."""
        self.llm.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("system")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    answer_commands(lambda: Own(args.system, args.folder, args.threads), timed)
