"""One forward pass over whole sequences: its logits, its time alone, and every operator's output if wanted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import RequestError
from cutset.models.run.executor import Batch, Executor

__all__ = ["Forward", "Inputs", "measure", "run_forward", "write_trace"]

Inputs = tuple[NDArray[np.int32], NDArray[np.bool_]]  # input_ids and attention_mask, each (batch, tokens)
BLOCK = 16


@dataclass(frozen=True, slots=True)
class Forward:
    """Logits (batch, tokens, vocab) and the seconds of each counted pass."""

    logits: NDArray[np.float32]
    seconds: list[float]


def measure(work: Callable[[], Any], warmup: int, repeat: int) -> tuple[Any, list[float]]:
    """Runs `work` `warmup` times uncounted and `repeat` times counted: the last result, and the seconds of each."""
    if warmup < 0 or repeat < 1:
        raise RequestError(f"warmup must be at least 0 and repeat at least 1, not {warmup} and {repeat}")
    for _ in range(warmup):
        work()
    seconds, result = [], None
    for _ in range(repeat):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return result, seconds


def run_forward(executor: Executor, inputs: Inputs, warmup: int = 0, repeat: int = 1) -> Forward:
    """Times whole passes from an empty cache. Padding is not seen; logits at padding mean nothing."""
    ids, mask = inputs
    batch = Batch.whole(ids, BLOCK, None if mask.all() else mask)
    cache = executor.new_cache(batch.block_tables.size, BLOCK)
    logits, seconds = measure(lambda: executor.forward(batch, cache), warmup, repeat)
    return Forward(logits.reshape(*ids.shape, -1), seconds)


def write_trace(executor: Any, inputs: Inputs, folder: Path) -> int:
    """Writes every operator's output of one pass to `folder`, numbered and named by layer; how many there were."""
    ids, mask = inputs
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise RequestError(f"{folder} is not empty; give a new folder for the trace")
    batch = Batch.whole(ids, BLOCK, None if mask.all() else mask)
    written = 0

    def keep(name: str, layer: int, value: Any) -> None:
        nonlocal written
        array = value if isinstance(value, np.ndarray) else value.float().cpu().numpy()
        where = "" if layer < 0 else f"layer{layer:02d}-"
        np.save(folder / f"{written:05d}-{where}{name}.npy", array)
        written += 1

    executor.forward(batch, executor.new_cache(batch.block_tables.size, BLOCK), keep)
    return written
