"""How near the linear layers come to what the machine can do, and to what torch does with it.

    python -m benchmarks kernels_linear --threads 2 --seconds 60 --json linear.json

Decode: all layers of a model of 246 M parameters in turn (so that no cache holds the weights), 1 and 8 rows, against a
plain loop that reads as many bytes. Prefill: 128 rows on each shape. Everything takes turns within one process, and
each figure is the median over the rounds; `best` on the screen is from the sum of each layer's best time, which is what
counts where others use the machine too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np

from cutset.cli.bench_rows import save_rows
from cutset.cli.options import add_json
from cutset.compare.results import Row, summarise
from cutset.kernels import _native as native

__all__ = ["configure", "run"]

LAYER = {"qkv": (1536, 1024), "o": (1024, 1024), "gate_up": (5632, 1024), "down": (1024, 2816)}
HEAD = (32000, 1024)
DECODE = [*LAYER.values()] * 16 + [HEAD]
PREFILL = {**LAYER, "4096": (4096, 4096)}
COPIES = 4  # of each weight in prefill, so that it is not in the second cache already

Call = Callable[[], object]


def rounds(calls: dict[str, list[Call]], seconds: float) -> dict[str, Any]:
    """Seconds of every call, (rounds, calls) for each system; the systems take turns."""
    taken: dict[str, list[list[float]]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken[next(iter(calls))]) < 3:
        for name, list_of_calls in calls.items():
            row = []
            for call in list_of_calls:
                start = time.perf_counter()
                call()
                row.append(time.perf_counter() - start)
            taken[name].append(row)
    return {name: np.array(rows) for name, rows in taken.items()}


def report(workload: str, taken: dict[str, Any], metric: str, amount: float, unit: str) -> Iterator[Row]:
    """One row a system: `amount` (in `unit` seconds) over the time of a round."""
    print(workload)
    for name, seconds in taken.items():
        row = summarise(workload, name, metric, list(amount / seconds.sum(axis=1)), unit)
        best = amount / seconds.min(axis=0).sum()
        print(f"  {name:22} {row.value:9.1f} {unit}   best {best:9.1f}", flush=True)
        yield row


def make(kind: str, shapes: list[tuple[int, int]], pool: Any) -> list[Any]:
    """Packed layers with weights of no meaning."""
    rng = np.random.default_rng(0)
    layers: list[native.LinearF32 | native.LinearI8] = []
    for shape in shapes:
        if kind == "f32":
            layers.append(native.LinearF32(rng.standard_normal(shape, dtype=np.float32), pool))
        else:
            weight = rng.integers(-127, 128, shape, dtype=np.int8)
            layers.append(native.LinearI8(weight, np.full(shape[0], 0.01, np.float32), pool))
    return layers


def ours(layers: list[Any], rows: int, pool: Any, **options: int) -> list[Call]:
    rng = np.random.default_rng(rows)
    x = {layer.depth: rng.standard_normal((rows, layer.depth), dtype=np.float32) for layer in layers}
    out = {layer.outputs: np.empty((rows, layer.outputs), np.float32) for layer in layers}

    def call(layer: Any) -> Call:
        return lambda: layer(x[layer.depth], out[layer.outputs], pool=pool, **options)

    return [call(layer) for layer in layers]


def of_torch(kind: str, shapes: list[tuple[int, int]], rows: int) -> list[Call]:
    import torch

    def single(shape: tuple[int, int]) -> Call:
        x, weight = torch.randn(rows, shape[1]), torch.randn(shape)
        return lambda: torch.nn.functional.linear(x, weight)

    def whole(shape: tuple[int, int]) -> Call:  # without quantising x and scaling y, which ours includes
        q = torch.randint(-127, 128, (rows, shape[1]), dtype=torch.int8)
        weight = torch.randint(-127, 128, shape, dtype=torch.int8).t()
        return lambda: torch._int_mm(q, weight)

    return [(single if kind == "f32" else whole)(shape) for shape in shapes]


def reading(sizes: list[int], pool: Any) -> list[Call]:
    memory = np.ones(sum(sizes), np.uint8)

    def call(end: int, size: int) -> Call:
        return lambda: native.read_seconds(memory[end - size : end], pool)

    return [call(int(end), size) for end, size in zip(np.cumsum(sizes), sizes, strict=True)]


def decode(pool: Any, seconds: float, torch_too: bool) -> Iterator[Row]:
    for kind in ("f32", "int8"):
        layers = make(kind, DECODE, pool)
        sizes = [layer.nbytes for layer in layers]
        calls = {"plain reads": reading(sizes, pool)}
        for rows in (1, 8):
            calls["cutset"] = ours(layers, rows, pool)
            if torch_too and kind == "f32":
                calls["torch"] = of_torch(kind, DECODE, rows)
            taken = rounds(calls, seconds)
            yield from report(f"{kind}, {rows} rows, whole model", taken, "weights", sum(sizes) / 1e9, "GB/s")


def prefill(pool: Any, seconds: float, torch_too: bool) -> Iterator[Row]:
    for name, shape in PREFILL.items():
        shapes = [shape] * COPIES
        amount = 2 * 128 * shape[0] * shape[1] * COPIES / 1e9
        calls = {"cutset": ours(make("f32", shapes, pool), 128, pool)}
        if torch_too:
            calls["torch"] = of_torch("f32", shapes, 128)
        yield from report(f"f32, 128 rows, {name}", rounds(calls, seconds), "products", amount, "GFLOP/s")
        layers = make("int8", shapes, pool)
        calls = {
            "cutset": ours(layers, 128, pool),
            "cutset, 12 bits": ours(layers, 128, pool, bits=layers[0].most_bits),
        }
        if torch_too:
            calls["torch._int_mm"] = of_torch("int8", shapes, 128)
        yield from report(f"int8, 128 rows, {name}", rounds(calls, seconds), "products", amount, "GOP/s")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60, help="in all, without preparation")
    parser.add_argument("--isa", choices=native.available_isas(), default=native.isa())
    parser.add_argument("--no-torch", action="store_true")
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    native.select_isa(args.isa)
    torch_too = not args.no_torch and find_spec("torch") is not None
    if torch_too:
        import torch

        torch.set_num_threads(args.threads)
        torch.set_grad_enabled(False)
    pool = native.Pool(args.threads)
    part = args.seconds / (4 + 2 * len(PREFILL))
    print(f"{args.isa}, {args.threads} threads")
    rows = [*decode(pool, part, torch_too), *prefill(pool, part, torch_too)]
    save_rows(args, rows, threads=args.threads, packages=("torch",))
    return 0
