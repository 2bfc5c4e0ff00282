"""Seconds of a decoder's nodes on this machine, measured on made-up weights and kept like the profiles of networks."""

from __future__ import annotations

import hashlib
import importlib.metadata
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutset.config import usable_cores
from cutset.engine.decoder_stage import executor_layers
from cutset.engine.decoder_times import CHUNK, DecoderTimes, windows_of
from cutset.engine.made_up import layer_model, made_up_executor
from cutset.engine.params import SamplingParams
from cutset.engine.sampler import TokenSampler, choose
from cutset.engine.stage_graph import StageModel, segments
from cutset.kernels import native
from cutset.models.run.executor import Batch, States
from cutset.models.spec import DecoderSpec
from cutset.partition.graph import Graph
from cutset.partition.profile import FORMAT, Profile, cpu_name, keep, kept

__all__ = ["STRETCH", "Bench", "measured_times", "stretch_of"]

Progress = Callable[[str, int, int], None]
STRETCH = 64 << 20  # bytes of weights, as they came and as they are laid out, of the layers that every machine times
ROWS = (1, 8, 32)
CONTEXT = 512  # tokens at which attention is timed, at most
BLOCK = 16  # tokens of a block of the cache
BUDGET = 0.6  # seconds that one kind of step is timed for, unless it takes longer once
RUNS = 9
MOST_NODE = 1 << 30  # bytes of a node's weights; larger ones aren't made up: they count by their bytes
POINTS = (*((rows, 1) for rows in ROWS), (CHUNK, CHUNK), (1, CONTEXT))  # rows of a step, and tokens of context


class Bench:
    """An executor of layers with made-up weights, and a cache for it."""

    def __init__(self, executor: Any) -> None:
        self.executor, self.spec = executor, executor.spec
        layers = executor_layers(executor)
        self.first, self.last = layers.start == 0, layers.stop == self.spec.layers
        self._blocks = max(ROWS) + CONTEXT // BLOCK
        self._cache = executor.new_cache(self._blocks, BLOCK, max(ROWS) if self.spec.state_floats else 0)
        self._random = np.random.default_rng(0)

    def run(self, rows: int, context: int, *, prompt: bool = False, steps: int = 1) -> float:
        """Seconds of so many steps, each of `rows` sequences with so many tokens, or of a prompt's last rows."""
        sequences = 1 if prompt else rows
        lens = np.full(sequences, context, np.int32)
        each = -(-context // BLOCK)
        table = (np.arange(sequences * each, dtype=np.int32) % self._blocks).reshape(sequences, each)
        positions = np.arange(context - rows, context) if prompt else lens - 1
        batch = Batch(
            token_ids=self._random.integers(0, self.spec.vocab_size, rows).astype(np.int32),
            positions=positions.astype(np.int32),
            row_starts=np.array([0, rows] if prompt else range(rows + 1), np.int32),
            context_lens=lens,
            block_tables=table,
            logit_rows=np.array([rows - 1] if prompt else range(rows), np.int32),
            limits=np.full(sequences, self.spec.context, np.int32),
            states=States.fresh(sequences) if self.spec.state_floats else None,
        )
        hidden = self._random.standard_normal((rows, self.spec.hidden), dtype=np.float32)
        given = {} if self.first else {"hidden": hidden}
        samplers = self._samplers(sequences) if self.last else []
        start = time.perf_counter()
        for _ in range(steps):
            made = self.executor.forward(batch, self._cache, **given)
            if self.last:
                choose(made, samplers, [context] * sequences)
        return time.perf_counter() - start

    def _samplers(self, count: int) -> list[TokenSampler]:
        none = np.empty(0, np.int32)
        params = SamplingParams(temperature=0).with_defaults({})
        vocab = self.spec.vocab_size
        return [TokenSampler(params, seed=i, index=0, vocab_size=vocab, prompt_ids=none) for i in range(count)]

    def seconds(self, rows: int, context: int, *, prompt: bool = False) -> float:
        """The median of several steps, without the first."""
        first = self.run(rows, context, prompt=prompt)
        times: list[float] = []
        while len(times) < RUNS and (not times or sum(times) + times[-1] < BUDGET):
            times.append(self.run(rows, context, prompt=prompt))
        return statistics.median(times) if times else first


def measured_times(
    model: StageModel,
    graph: Graph,
    tensors: Mapping[str, Any],
    threads: int,
    *,
    fresh: bool = False,
    progress: Progress | None = None,
) -> DecoderTimes:
    """This machine's times of a decoder's graph, from the cache of profiles unless `fresh`. Raises CutsetError."""
    spec, digest = model.spec(), digest_of(model)
    known = None if fresh else _kept(digest, threads)
    if known is None:
        known = _measure(model, graph, tensors, threads, progress or (lambda what, done, total: None))
        for point, seconds in known.items():
            _keep(digest, spec, threads, point, seconds)
    attention = (known[1, CONTEXT] - known[1, 1]) / (CONTEXT - 1)
    prefill = np.maximum(known[CHUNK, CHUNK] / CHUNK - np.maximum(attention, 0) * CHUNK / 2, 0.0)
    return DecoderTimes(
        {rows: known[rows, 1] for rows in ROWS}, prefill, np.maximum(attention, 0.0), windows_of(spec, graph)
    )


def stretch_of(graph: Graph, most: float = STRETCH) -> range:
    """The nodes that every machine times, to be compared: from the middle on, layers with so many bytes, at least one.

    They don't have the embedding or the head, unless there are no other layers. `graph` is one with hardly any cache.
    """
    sizes = [graph.weight_bytes([i]) + node.state for i, node in enumerate(graph.nodes)]
    end = len(sizes) - 1
    first, stop = (2, end - 1) if end > 4 else (1, end)
    begin = first + (stop - first) // 4
    last = begin + 1
    while last < stop and sum(sizes[begin : last + 1]) <= most:
        last += 1
    while begin > first and sum(sizes[begin - 1 : last]) <= most:
        begin -= 1
    if (begin, last) == (1, end):  # there is nothing but these
        return range(len(graph.nodes))
    return range(begin - (begin == 1), last + (last == end))


def digest_of(model: StageModel) -> str:
    """SHA-256 of all that the times of a decoder depend on, beside the machine."""
    return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(model, setup=b""))).hexdigest()


@dataclass(frozen=True, eq=False)
class _Timed:
    """Seconds of some nodes together, at each point."""

    seconds: Mapping[tuple[int, int], float]


def _measure(
    model: StageModel, graph: Graph, tensors: Mapping[str, Any], threads: int, progress: Progress
) -> dict[tuple[int, int], NDArray[np.float64]]:
    """Layers of one kind take the same time: one of each is timed alone, and the level is that of a stretch of them."""
    end, spec = len(graph.nodes) - 1, model.spec()
    every = segments(spec)
    kinds: dict[Any, list[int]] = {}
    for i in range(1, end):
        kinds.setdefault(_kind(spec, every[i], graph, i), []).append(i)
    inner = {kind: next((i for i in nodes if 1 < i < end - 1), nodes[0]) for kind, nodes in kinds.items()}
    stretch = stretch_of(graph)
    jobs = {_with_ends(range(i, i + 1), end) for i in inner.values()}
    jobs |= {range(2), range(end - 1, end + 1), stretch} if end > 2 else set()
    jobs = {job for job in jobs if _bytes(graph, job) <= MOST_NODE}
    found: dict[range, _Timed] = {}
    for number, job in enumerate(sorted(jobs, key=lambda one: (one.start, one.stop))):
        progress("timing layers", number, len(jobs))
        executor = made_up_executor(layer_model(model, graph, tensors, job), threads)
        bench = Bench(executor)
        found[job] = _Timed({point: _point(bench, *point) for point in POINTS})
    progress("timing layers", len(jobs), len(jobs))
    return {point: _spread(graph, kinds, inner, stretch, found, point) for point in POINTS}


def _spread(
    graph: Graph,
    kinds: Mapping[Any, Sequence[int]],
    inner: Mapping[Any, int],
    stretch: range,
    found: Mapping[range, _Timed],
    point: tuple[int, int],
) -> NDArray[np.float64]:
    """(nodes,) from what was timed at a point."""
    end = len(graph.nodes) - 1
    seconds = np.zeros(end + 1)

    def timed(nodes: range) -> float | None:
        one = found.get(nodes)
        return None if one is None else one.seconds[point]

    whole = timed(stretch)
    for kind, nodes in kinds.items():
        alone = timed(_with_ends(range(inner[kind], inner[kind] + 1), end))
        size = _bytes(graph, range(inner[kind], inner[kind] + 1))
        if alone is None:  # too large to be made up
            alone = (whole or 0.0) * size / max(_bytes(graph, stretch), 1)
        seconds[list(nodes)] = alone
    layers = [i for i in stretch if 0 < i < end]
    if whole is not None and len(layers) == len(stretch) and seconds[layers].sum() > 0:
        seconds[1:end] *= whole / seconds[layers].sum()
    rate = seconds[1:end].sum() / max(_bytes(graph, range(1, end)), 1)
    first, last = timed(range(2)), timed(range(end - 1, end + 1))
    if end == 2:  # one node of layers, which was timed with both ends
        seconds[end] = 0.0
        return seconds
    seconds[0] = 0.0 if first is None else max(first - seconds[1], 0.0)
    seconds[end] = rate * _bytes(graph, range(end, end + 1)) if last is None else max(last - seconds[end - 1], 0.0)
    return seconds


def _point(bench: Bench, rows: int, context: int) -> float:
    if rows == CHUNK:
        return bench.seconds(rows, context, prompt=True)
    return bench.seconds(rows, context)


def _with_ends(nodes: range, end: int) -> range:
    """With the embedding and the head, which no stage leaves alone."""
    return range(nodes.start - (nodes.start == 1), nodes.stop + (nodes.stop == end))


def _kind(spec: DecoderSpec, layers: range, graph: Graph, node: int) -> Any:
    """The same for nodes that take the same time: equal arrays, and layers that are alike."""
    arrays = tuple((graph.weights[name].dtype, graph.weights[name].shape) for name in graph.nodes[node].weights)
    alike = tuple((spec.window(one), one in spec.recurrent_layers, one in spec.sparse_layers) for one in layers)
    return arrays, alike


def _bytes(graph: Graph, nodes: range) -> float:
    return float(graph.weight_bytes(nodes))


def _versions(point: tuple[int, int]) -> dict[str, str]:
    isa = native.isa() if native.available() else "numpy"
    return {"cutset": importlib.metadata.version("cutset"), "isa": isa, "step": f"{point[0]} rows, {point[1]} tokens"}


def _kept(digest: str, threads: int) -> dict[tuple[int, int], NDArray[np.float64]] | None:
    found = {point: kept(digest, threads, _versions(point)) for point in POINTS}
    if any(one is None for one in found.values()):
        return None
    return {point: np.array(one.seconds) for point, one in found.items() if one is not None}


def _keep(digest: str, spec: DecoderSpec, threads: int, point: tuple[int, int], seconds: NDArray[np.float64]) -> None:
    keep(
        Profile(
            format=FORMAT,
            model=f"{spec.family}, {spec.layers} layers",
            size=point,
            graph=digest,
            cpu=cpu_name(),
            cores=usable_cores(),
            threads=threads,
            versions=_versions(point),
            seconds=tuple(seconds.tolist()),
            spread=(0.0,) * len(seconds),
            whole=float(seconds.sum()),
            observing=0.0,
            rounds=RUNS,
            encode={},
            decode={},
        )
    )
