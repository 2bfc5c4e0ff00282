"""`cutset bench exchange`: random models through every backend, from the same exchange file, timed and compared.

Every backend runs the same file with the same number of threads and the same warm-up; each hands back its own logits,
which are compared with the slowest and plainest one, the reference in float32.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from cutset.compare.agreement import Agreement, compare_arrays
from cutset.compare.forward import Forward, Inputs, run_forward
from cutset.compare.results import Row, summarise
from cutset.config import Settings
from cutset.errors import DeviceError
from cutset.models.files.source import ModelSource, open_source
from cutset.models.random import RandomModel
from cutset.models.run.backend import build_executor
from cutset.video.views.figure import save

__all__ = ["SWEEP", "SYSTEMS", "BackendResult", "plot", "run_sizes"]

SYSTEMS = (
    ("reference", "float32"),
    ("torch", "float32"),
    ("native", "float32"),
    ("native", "int8"),
    ("native", "exact"),
)
# Largest relative L2 distance from the reference: rounding of sums in float32, 8-bit weights in the others.
TOLERANCE = {"float32": 1e-4, "int8": 0.1, "exact": 0.1}
SWEEP = tuple(
    RandomModel(hidden=hidden, layers=layers, vocab=vocab)
    for hidden, layers, vocab in ((64, 2, 128), (128, 4, 512), (256, 6, 2048), (512, 8, 6400))
)


@dataclasses.dataclass(frozen=True, slots=True)
class BackendResult:
    """One backend on one size: how fast, how fast against the reference, and whether it agrees."""

    workload: str
    system: str
    row: Row
    speedup: float
    agreement: Agreement
    agrees: bool


def run_sizes(
    models: Sequence[RandomModel], settings: Settings, warmup: int, repeat: int, tell: Callable[[str], None]
) -> Iterator[BackendResult]:
    """Every backend on every size. Backends that aren't installed are named and left out."""
    for model in models:
        name = f"{model.hidden}x{model.layers}"
        if model.experts:
            name += f" moe {model.experts}"
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.json"
            model.write_exchange(file)
            source = open_source(file)
            assert source.inputs is not None
            yield from _run_size(
                f"{name}: forward {model.batch_size}x{model.seq_len}", source, settings, warmup, repeat, tell
            )


def _run_size(
    workload: str, source: ModelSource, settings: Settings, warmup: int, repeat: int, tell: Callable[[str], None]
) -> Iterator[BackendResult]:
    inputs = source.inputs
    assert inputs is not None
    plain: Forward | None = None
    for backend, dtype in SYSTEMS:
        if backend == "torch" and find_spec("torch") is None:
            tell(f"{workload}: without torch, which is not installed")
            continue
        try:
            found = _run(source, inputs, settings, backend, dtype, warmup, repeat)
        except DeviceError as error:
            tell(f"{workload}: without {backend} {dtype}: {error}")
            continue
        plain = plain or found
        agreement = compare_arrays(found.logits, plain.logits, inputs[1])
        milliseconds = [seconds * 1e3 for seconds in found.seconds]
        row = summarise(workload, f"cutset {backend} {dtype}", "forward", milliseconds, "ms")
        speedup = float(np.median(plain.seconds) / np.median(found.seconds))
        yield BackendResult(workload, row.system, row, speedup, agreement, agreement.within(TOLERANCE[dtype]))


def _run(
    source: ModelSource, inputs: Inputs, settings: Settings, backend: str, dtype: str, warmup: int, repeat: int
) -> Forward:
    chosen = dataclasses.replace(settings, backend=backend, dtype=dtype, device="cpu")
    executor, _ = build_executor(source, chosen)
    return run_forward(executor, inputs, warmup, repeat)


def plot(found: Sequence[BackendResult], file: Path) -> None:
    """Times by size and backend, as bars on a logarithmic scale. The file's ending says the format.

    Raises DeviceError where matplotlib isn't installed, ConfigError where the file can't be written.
    """
    title = "One forward pass; labels: times as fast as the reference"
    width = 2.2 + 1.9 * len({one.workload for one in found})
    save(_draw, {"title": title, "size": (width, 4.2), "found": found}, file)


def _draw(figure: Any, data: Mapping[str, Any]) -> None:
    found: Sequence[BackendResult] = data["found"]
    axes = figure.subplots()
    workloads = list(dict.fromkeys(one.workload for one in found))
    systems = list(dict.fromkeys(one.system for one in found))
    width = 0.8 / len(systems)
    for number, system in enumerate(systems):
        chosen: list[Any] = [
            next((one for one in found if one.workload == w and one.system == system), None) for w in workloads
        ]
        places = [i + (number - (len(systems) - 1) / 2) * width for i in range(len(workloads))]
        heights = [one.row.value if one else 0.0 for one in chosen]
        bars = axes.bar(places, heights, width, label=system.removeprefix("cutset "))
        axes.bar_label(bars, [f"{one.speedup:.1f}x" if one else "" for one in chosen], fontsize=7, padding=1)
    axes.set_yscale("log")
    axes.set_xticks(range(len(workloads)), [w.replace(": ", "\n") for w in workloads])
    axes.set_ylabel("ms, median (lower is better)")
    axes.legend(fontsize=8)
