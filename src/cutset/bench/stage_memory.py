"""`cutset bench stages`, memory: a model on three workers, of which none could hold it.

What a worker may use counts beyond what its process has before anyone comes. Its weights are sent, so that they are in
its own memory; pages of files, which the system drops when it needs them, don't count.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from cutset.bench.stage_models import StageBench
from cutset.bench.stage_workers import BenchStages, cores, engine_process, resident
from cutset.compare.results import Row
from cutset.engine.stage_graph import StageLimits, decoder_graph, stage_model
from cutset.engine.stage_item import StageSetup
from cutset.models.files.source import open_source
from cutset.partition.graph import Graph

__all__ = ["run_memory"]

MB = 10**6
LOOK = 0.02  # seconds between two looks at a process
BLOCK, CONTEXT, SEQUENCES, ROWS = 16, 512, 8, 32


def run_memory(bench: StageBench) -> list[Row]:
    """Whether it runs, how large its cache is, and what the processes used at most."""
    a, b = cores(2)
    model = bench.model("w600")
    limits = [16 * MB, 12 * MB, 10 * MB] if bench.quick else [400 * MB, 200 * MB, 100 * MB]
    workload = f"{bench.named('w600')} int8 on workers of {', '.join(f'{limit // MB} MB' for limit in limits)}"
    options = {"max_model_len": CONTEXT, "max_num_seqs": SEQUENCES, "max_batch_tokens": ROWS, "block_size": BLOCK}
    with BenchStages([a, b, b], None, memory=limits) as stages:
        base = {name: resident(stages.process(name).pid) for name in stages.names}
        most = dict(base)

        def look() -> None:
            for name in stages.names:
                most[name] = max(most[name], resident(stages.process(name).pid))

        with _Often(look), engine_process(model, [a, b], options | stages.settings()) as engine:
            plan = engine.call(do="plan")
            each = max(1, min(SEQUENCES, plan["cache"] // CONTEXT))
            length = max(1, min(CONTEXT, plan["cache"] // each) - 4 * BLOCK)  # all of the cache is written to
            found = engine.call(do="decode", sequences=each, prompt=length, steps=2 * BLOCK)
    rows = [Row(workload, "cutset three stages", "decode", found["tokens"] / found["seconds"], "tok/s")]
    allowed = _allowed(model, limits)
    metric = "tokens of the cache, of what memory allows"
    rows.append(Row(workload, "cutset three stages", metric, plan["cache"] / allowed, "x"))
    for name, limit in zip(stages.names, limits, strict=True):
        used = most[name] - base[name]
        rows.append(Row(workload, f"cutset stage of {limit // MB} MB", "most memory beyond the base", used / MB, "MB"))
        rows.append(
            Row(workload, f"cutset stage of {limit // MB} MB", "most memory, of its limit", used / limit, "rel")
        )
    return rows


def _allowed(model: Path, limits: list[int]) -> float:
    """Tokens of the largest cache, if memory held weights and cache alone, by the best division of the layers."""
    source = open_source(model)
    graphs = []
    for blocks in (1, 2):
        described = stage_model(source, "", "native", "int8", StageSetup(blocks, BLOCK))
        graphs.append(decoder_graph(source, described, StageLimits(ROWS, SEQUENCES, CONTEXT)).graph)
    one, two = graphs
    best, count = 0.0, len(one.nodes)
    for first in range(1, count - 1):
        for second in range(first + 1, count):
            parts = [range(*pair) for pair in pairwise([0, first, second, count])]
            best = max(best, min(_blocks(one, two, part, limit) for part, limit in zip(parts, limits, strict=True)))
    return best * BLOCK


def _blocks(one: Graph, two: Graph, part: range, limit: int) -> float:
    """Blocks of a part's cache that such a limit leaves room for; none where it has no layer: no stage is like that."""
    block = sum(two.nodes[i].state - one.nodes[i].state for i in part)
    return max(0.0, (limit - one.weight_bytes(part)) / block) if block else 0.0


class _Often:
    """Calls a function now and then while its block runs."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call, self._over = call, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._over.wait(LOOK):
            self._call()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
