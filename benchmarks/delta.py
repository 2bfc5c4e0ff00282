"""`python -m benchmarks delta`: the delta codec beside what others do with the same two tensors, on one core.

The tensors are made up: smooth pictures, or features of which half is zero, and rectangles, the same in every channel,
in which every value changes between one picture and the next. `csr` is the coding of an older system, in numpy: the
difference of the tensors, channel by channel as compressed sparse rows (float32 or bytes, 32-bit columns and row
starts) where that is smaller, else dense; without pickle, and once more with zlib (level 1) behind it. `zstd`
compresses the dense tensor (level 1). Every system's decoder must end up with the tensor, to the bit where the system
is exact.
"""

from __future__ import annotations

import argparse
import math
import random
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from cutset.bench.turns import Turn, medians, take_turns
from cutset.cli.bench_rows import add_rounds, save_rows, tell
from cutset.cli.options import add_json
from cutset.cli.output import table
from cutset.codec import Decoder, EdgeSpec, Encoder, available
from cutset.codec.compression import Compressor, compress, decompress
from cutset.compare.results import Row
from cutset.errors import CutsetError, RequestError

__all__ = ["SHARES", "TENSORS", "configure", "run", "run_delta", "two_tensors"]

Tensor = np.ndarray[Any, Any]

TENSORS = {
    "picture": ((3, 480, 720), "u1"),
    "vgg16-1": ((64, 480, 720), "<f4"),
    "alexnet-1": ((64, 119, 179), "<f4"),
    "alexnet-5": ((192, 59, 89), "<f4"),
    "alexnet-12": ((256, 14, 21), "<f4"),
}
SHARES = (0.0, 0.01, 0.1, 0.3, 1.0)
BOTH, BYTES = "encode + decode", "bytes, of dense"
SMALL, MORE = 4 << 20, 6  # bytes of a tensor under which there are so many times as many rounds
FAST, SLOW = 1e8, 1e6  # bytes a second of the links that ours encodes for: a local network, and a thin line


class Coder(Protocol):
    """One way to bring the other side from the tensor that it holds to the next."""

    name: str
    exact: bool

    def encode(self, fresh: Tensor) -> Sequence[Any]:
        """What is sent."""

    def decode(self, sent: Sequence[Any]) -> Tensor:
        """What the other side holds then."""


def two_tensors(shape: tuple[int, ...], dtype: str, share: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Consecutive tensors (channels, rows, columns) that differ in about that share of the elements."""
    rng = np.random.default_rng(seed)
    channels, rows, columns = shape
    base = rng.standard_normal(shape, np.float32).cumsum(axis=2)
    base += rng.standard_normal((channels, rows, 1), np.float32) * 4
    base -= np.median(base)
    moved = np.zeros((rows, columns), bool)
    side = max(int(min(rows, columns) / 6), 1)
    while moved.mean() < share:
        top, left = rng.integers(-side + 1, rows), rng.integers(-side + 1, columns)
        missing = round((share - moved.mean()) * moved.size)
        high = min(side, max(math.ceil(missing / side), 1))
        moved[max(top, 0) : top + high, max(left, 0) : left + min(side, missing)] = True
    if dtype == "u1":
        before = np.clip(base * 8 + 128, 16, 239).astype(np.uint8)
        noise = rng.integers(1, 16, shape) * rng.choice([-1, 1], shape)
        return before, np.where(moved, before + noise, before).astype(np.uint8)
    before = np.maximum(base, 0).astype(dtype)
    return before, np.where(moved, np.abs(base) * np.float32(0.9) + np.float32(0.7), before).astype(dtype)


class Ours:
    """Our encoder and decoder: bit mask and values, compressed where the link is slow."""

    exact = True

    def __init__(self, tensor: Tensor, bandwidth: float, compressor: Compressor | None) -> None:
        self.name = f"cutset, {compressor}, {bandwidth / 1e6:.0f} MB/s" if compressor else "cutset"
        spec = EdgeSpec.of(0, "bench", tensor)
        self.encoder = Encoder(spec, bandwidth=bandwidth, compressor=compressor)
        self.decoder = Decoder(spec)
        self.count = 0

    def encode(self, fresh: Tensor) -> Sequence[Any]:
        self.count += 1
        encoded = self.encoder.encode(fresh, self.count)
        self.payload = encoded.payload
        return encoded.arrays

    def decode(self, sent: Sequence[Any]) -> Tensor:
        tensor = self.decoder.decode(self.payload, sent).tensor
        if tensor is None:
            raise CutsetError("the codec lost its own payload")
        return tensor


class Dense:
    """All of the tensor, as it is or compressed."""

    exact = True

    def __init__(self, tensor: Tensor, compressor: Compressor | None) -> None:
        self.name: str = compressor or "dense"
        self.compressor, self.held = compressor, np.zeros_like(tensor)

    def encode(self, fresh: Tensor) -> Sequence[Any]:
        data = fresh.reshape(-1).view(np.uint8)
        return [data if self.compressor is None else compress(self.compressor, data)]

    def decode(self, sent: Sequence[Any]) -> Tensor:
        data = sent[0] if self.compressor is None else decompress(self.compressor, sent[0], self.held.nbytes)
        self.held.reshape(-1).view(np.uint8)[...] = data
        return self.held


class Csr:
    """The difference, each channel as compressed sparse rows where that is smaller."""

    exact = False  # sums of rounded differences; exact for bytes alone

    def __init__(self, tensor: Tensor, packed: bool) -> None:
        self.name = "csr + zlib" if packed else "csr"
        self.packed, self.last, self.held = packed, np.zeros_like(tensor), np.zeros_like(tensor)

    def encode(self, fresh: Tensor) -> Sequence[Any]:
        difference = fresh - self.last
        self.last = fresh.copy()
        sent = []
        for plane in difference:
            rows, columns = np.nonzero(plane)
            starts = np.searchsorted(rows, np.arange(len(plane) + 1)).astype(np.int32)
            sparse = rows.size * (plane.itemsize + 4) + starts.nbytes < plane.nbytes
            arrays = [starts, columns.astype(np.int32), plane[rows, columns]] if sparse else [plane]
            sent.append([self._pack(array.reshape(-1).view(np.uint8)) for array in arrays])
        return sent

    def decode(self, sent: Sequence[Any]) -> Tensor:
        for plane, arrays in zip(self.held, sent, strict=True):
            parts = [self._unpack(array) for array in arrays]
            if len(parts) == 1:
                plane += np.frombuffer(parts[0], plane.dtype).reshape(plane.shape)
            else:
                starts = np.frombuffer(parts[0], np.int32)
                rows = np.repeat(np.arange(len(plane)), starts[1:] - starts[:-1])
                plane[rows, np.frombuffer(parts[1], np.int32)] += np.frombuffer(parts[2], plane.dtype)
        return self.held

    def _pack(self, data: Any) -> Any:
        return np.frombuffer(zlib.compress(data, 1), np.uint8) if self.packed else data

    def _unpack(self, data: Any) -> Any:
        return zlib.decompress(data) if self.packed else data


def systems(tensor: Tensor) -> list[Coder]:
    """Ours, and what there is beside it on this machine."""
    best = available()[0]
    ours = [Ours(tensor, FAST, None), Ours(tensor, SLOW, best)]
    return [*ours, Dense(tensor, None), Dense(tensor, best), Csr(tensor, False), Csr(tensor, True)]


def size_of(sent: Sequence[Any]) -> int:
    return sum(part.nbytes if isinstance(part, np.ndarray) else size_of(part) for part in sent)


def run_delta(names: Sequence[str], rounds: int, tell: Callable[[str], None]) -> Iterator[Row]:
    """Rows for each tensor and share: GB/s of dense tensor, and bytes as a share of dense. The systems take turns."""
    for name in names:
        shape, dtype = TENSORS[name]
        for share in SHARES:
            pair = two_tensors(shape, dtype, share)
            workload = f"{name} {'x'.join(map(str, shape))} {np.dtype(dtype).name}, {share:.0%} changed"
            tell(workload)
            yield from _run_pair(workload, pair, rounds)


def _run_pair(workload: str, pair: tuple[Tensor, Tensor], rounds: int) -> list[Row]:
    counts: dict[str, list[int]] = {}
    dense = pair[0].nbytes

    def turn_of(system: Coder) -> Turn:
        def turn(number: int) -> Iterator[Row]:
            fresh = pair[number % 2]
            start = time.perf_counter()
            sent = system.encode(fresh)
            middle = time.perf_counter()
            held = system.decode(sent)
            end = time.perf_counter()
            if system.exact and not np.array_equal(held, fresh):
                raise CutsetError(f"{workload}: {system.name} gave another tensor")
            if not np.allclose(held, fresh, rtol=1e-4, atol=1e-4):
                raise CutsetError(f"{workload}: {system.name} gave a wrong tensor")
            counts.setdefault(system.name, []).append(size_of(sent))
            for metric, seconds in ((BOTH, end - start), ("encode", middle - start), ("decode", end - middle)):
                yield Row(workload, system.name, metric, dense / seconds / 1e9, "GB/s")

        return turn

    all_of_them = systems(pair[0])
    rounds *= MORE if dense < SMALL else 1
    # The first two rounds bring both sides to where they would be in a video.
    turns = [turn_of(system) for system in all_of_them]
    rows = medians(take_turns(workload, turns, rounds, warmup=2, order=random.Random(0)))
    for system in all_of_them:
        last = counts[system.name][2:][-2:]
        rows.append(Row(workload, system.name, BYTES, sum(last) / len(last) / dense * 100, "%"))
    return rows


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tensor", action="append", metavar="NAME", help="only this one; repeatable (default: all)")
    add_rounds(parser)
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    for name in args.tensor or ():
        if name not in TENSORS:
            raise RequestError(f"--tensor {name}: known are {', '.join(TENSORS)}")
    rows = list(run_delta(args.tensor or tuple(TENSORS), args.rounds, tell))
    values = {row.key: row.value for row in rows}
    places = dict.fromkeys((row.workload, row.system) for row in rows)
    head = ("workload", "system", "GB/s, encode + decode", "encode", "decode", "bytes, % of dense")
    lines = [
        (w, s, *(f"{values[w, metric, s]:.2f}" for metric in (BOTH, "encode", "decode", BYTES))) for w, s in places
    ]
    print(table([head, *lines], right=range(2, 6)))
    save_rows(args, rows, threads=1, packages=("zstandard",))
    return 0
