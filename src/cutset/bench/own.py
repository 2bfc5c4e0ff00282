"""Our side of `cutset bench decode`: the same commands as opponents.py, answered by Cutset in a process of its own.

PYTHON -m cutset.bench.own "native int8" CHECKPOINT --threads N
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from cutset.bench.opponents import prompt_ids, rss_bytes, run_command

__all__ = ["main"]


class Own:
    """One backend in one dtype."""

    def __init__(self, backend: str, dtype: str, folder: Path, threads: int) -> None:
        from cutset.llm import LLM

        options: dict[str, Any] = {"prefix_caching": False, "cache_mib": 256, "generation_config": False}
        self.llm = LLM(folder, backend=backend, dtype=dtype, threads=threads, **options)
        self.threads = threads

    def forward(self, batch: int, tokens: int) -> float:
        from cutset.compare.forward import run_forward

        ids = np.array([prompt_ids(tokens, self.llm.spec.vocab_size, i) for i in range(batch)], dtype=np.int32)
        return run_forward(self.llm.executor, (ids, np.ones(ids.shape, dtype=bool))).seconds[0]

    def generate(self, sequences: int, prompt: int, steps: int) -> tuple[float, float]:
        from cutset.engine.params import SamplingParams

        prompts = [prompt_ids(prompt, self.llm.spec.vocab_size, 300 + i) for i in range(sequences)]
        start = time.perf_counter()
        self.llm.generate(prompts, SamplingParams(max_tokens=1, temperature=0, ignore_eos=True))
        middle = time.perf_counter()
        self.llm.generate(prompts, SamplingParams(max_tokens=steps + 1, temperature=0, ignore_eos=True))
        first = middle - start
        return first, time.perf_counter() - middle - first

    def bandwidth(self, size: int) -> float:
        """Bytes a second at which these threads read memory that no cache holds."""
        from cutset.kernels.native import extension

        native = extension()
        return float(native.read_bandwidth(native.Pool(self.threads), size, 1))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("system")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    channel, sys.stdout = sys.stdout, sys.stderr

    def answer(**content: Any) -> None:
        channel.write(json.dumps(content) + "\n")
        channel.flush()

    import cutset.llm
    import cutset.models.run.native  # noqa: F401  # libraries count as interpreter

    before = rss_bytes()
    backend, dtype = args.system.split(" ")
    own = Own(backend, dtype, args.folder, args.threads)
    answer(ready=args.system, versions={}, rss=rss_bytes(), rss_before=before)
    for line in sys.stdin:
        command = json.loads(line)
        do = command.pop("do")
        if do == "rss":
            answer(rss=rss_bytes())
        else:
            answer(seconds=run_command(own, do, command))
    own.llm.close()


if __name__ == "__main__":
    main()
