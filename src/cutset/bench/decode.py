"""`cutset bench decode`: prefill and decode of random models, in turns by every dtype.

Every system runs in a process of its own with the same number of threads and loads once. `benchmarks/decode.py` puts
other programs beside ours.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cutset.bench.turns import Process, Turn, medians, take_turns
from cutset.compare.results import Row
from cutset.errors import EngineError
from cutset.models.random import RandomModel
from cutset.models.spec import DecoderSpec

__all__ = [
    "OWN",
    "WORKLOADS",
    "DecodeWorkload",
    "System",
    "Task",
    "TimedWork",
    "own_process",
    "own_systems",
    "run_workload",
]

# What decoding reads of a weight, in bytes: int8 has a float16 scale for 64 of them, int4 a scale and a minimum for 32.
# Ours in float32 reads as many as the checkpoint has.
WIDTHS = {"native int8": 1 + 2 / 64, "native exact": 1.0, "native int4": 0.5 + 4 / 32}
OWN = ("native float32", *WIDTHS)
# Whole-number weights race each other, and floats each other; HALF rounds activations too, which float32 doesn't.
FLOAT, HALF, INTEGER, FOUR = ("float32", "bfloat16 activations", "8-bit weights", "4-bit weights")


@dataclass(frozen=True, slots=True)
class Task:
    """What systems are timed at: a command of `cutset.bench.own`."""

    name: str
    command: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DecodeWorkload:
    """A random model and what is done with it."""

    name: str
    model: RandomModel
    tasks: tuple[Task, ...]
    weights: tuple[str, ...] = ()  # only systems with such

    @property
    def spec(self) -> DecoderSpec:
        """Of the model."""
        return self.model.spec()

    @property
    def float_bytes(self) -> float:
        """Of a weight in the checkpoint."""
        return 2.0 if self.model.bfloat16 else 4.0


class TimedWork(Protocol):
    """What `run_workload` does with a checkpoint. With a specification, the memory's bandwidth is measured too."""

    @property
    def name(self) -> str: ...
    @property
    def tasks(self) -> tuple[Task, ...]: ...
    @property
    def spec(self) -> DecoderSpec | None: ...
    @property
    def float_bytes(self) -> float: ...
    @property
    def weights(self) -> tuple[str, ...]: ...  # only systems with such take part; all where there are none


@dataclass(frozen=True, slots=True)
class System:
    """Something that is timed: how its process is started on a checkpoint, and the tasks that it takes part in."""

    label: str  # in result files; ours begin with "cutset"
    weights: str  # FLOAT, HALF, INTEGER or FOUR
    start: Callable[[Path], Process]
    takes: Callable[[Task], bool] = lambda task: True

    @property
    def ours(self) -> bool:
        """Whether it is Cutset; anything else is an opponent."""
        return self.label.startswith("cutset")


def _forward() -> Task:
    return Task("forward 2x5", {"do": "forward", "batch": 2, "tokens": 5, "repeat": 20})


def _generate(sequences: int = 1, prompt: int = 128, steps: int = 64) -> Task:
    name = f"prefill {prompt}, decode {steps}" + (f", {sequences} sequences" if sequences > 1 else "")
    return Task(name, {"do": "generate", "sequences": sequences, "prompt": prompt, "steps": steps})


WORKLOADS = {
    "tiny": DecodeWorkload("tiny", RandomModel(), (_forward(),)),
    "minimind": DecodeWorkload(
        "minimind", RandomModel(hidden=512, layers=8, vocab=6400, max_pos=1024), (_forward(), _generate())
    ),
    "w246": DecodeWorkload(
        "w246",
        RandomModel(
            hidden=1024, layers=16, heads=16, kv_heads=4, intermediate=2816, vocab=32000, max_pos=1024, tied=False
        ),
        (_generate(), _generate(8), _generate(prompt=512, steps=16)),
    ),
    # As most are published. Everybody gets the same file.
    "w246-bf16": DecodeWorkload(
        "w246-bf16",
        RandomModel(
            hidden=1024,
            layers=16,
            heads=16,
            kv_heads=4,
            intermediate=2816,
            vocab=32000,
            max_pos=1024,
            tied=False,
            bfloat16=True,
        ),
        (_generate(), _generate(8), _generate(prompt=512, steps=16)),
        (FLOAT, HALF),
    ),
    # Its weights fit no cache, in 4 bits either.
    "w1b": DecodeWorkload(
        "w1b",
        RandomModel(
            hidden=2048, layers=22, heads=32, kv_heads=4, intermediate=5632, vocab=32000, max_pos=1024, tied=False
        ),
        (_generate(), _generate(8), _generate(prompt=512, steps=16)),
        (INTEGER, FOUR),
    ),
}


def own_process(name: str, folder: Path, threads: int) -> Process:
    """Cutset on a checkpoint: `name` is backend and dtype, as "native int8". Raises EngineError."""
    command = [sys.executable, "-m", "cutset.bench.own", name, str(folder), "--threads", str(threads)]
    return Process(command, name=name, threads=threads, quiet=True)


def own_systems(names: Iterable[str], threads: int) -> list[System]:
    """Those of OWN that are named."""

    def starter(name: str) -> Callable[[Path], Process]:
        return lambda folder: own_process(name, folder, threads)

    chosen = [name for name in OWN if name in tuple(names)]
    kinds = {"native float32": FLOAT, "native int4": FOUR}
    return [System(f"cutset {name}", kinds.get(name, INTEGER), starter(name)) for name in chosen]


def run_workload(
    workload: TimedWork, folder: Path, systems: Sequence[System], *, rounds: int, log: Callable[[str], None]
) -> tuple[list[Row], dict[str, str]]:
    """Times the systems at the workload's tasks on the checkpoint in `folder`: rows, and versions of other programs.

    A system that doesn't start or fails at a task is named and left out; one of ours that fails raises EngineError.
    """
    versions: dict[str, str] = {}
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        running: list[tuple[System, Process]] = []
        for system in systems:
            if system.weights in (workload.weights or (system.weights,)) and any(map(system.takes, workload.tasks)):
                log(f"{workload.name}: starting {system.label}")
                try:
                    process = stack.enter_context(system.start(folder))
                except EngineError as error:
                    log(f"{workload.name}: without {error}")
                    continue
                versions |= process.ready["versions"]
                running.append((system, process))
        for task in workload.tasks:
            taking_part = [(system, process) for system, process in running if system.takes(task)]
            rows += _run_task(workload, task, taking_part, rounds, log)
    return rows, versions


def _run_task(
    workload: TimedWork,
    task: Task,
    running: Sequence[tuple[System, Process]],
    rounds: int,
    log: Callable[[str], None],
) -> list[Row]:
    name, failed = f"{workload.name}: {task.name}", set[str]()

    def turn_of(system: System, process: Process) -> Turn:
        def turn(number: int) -> Iterator[Row]:
            if system.label in failed:
                return
            try:
                seconds = process.call(**task.command).get("seconds")
            except EngineError as error:  # a finding, not an end
                if system.ours:
                    raise
                log(f"{name}: without {error}")
                failed.add(system.label)
                return
            if seconds is not None:
                yield from _figures(name, system, task.command, seconds)

        return turn

    def read_bandwidth(number: int) -> Iterator[Row]:
        size = max(parameters, 1 << 26)
        rate = process_of_ours.call(do="bandwidth", size=size)["seconds"]
        yield Row(name, "this machine", "read bandwidth", rate / 1e9, "GB/s")

    turns = [turn_of(system, process) for system, process in running]
    ours = [process for system, process in running if system.ours]
    if ours and task.command["do"] == "generate" and workload.spec is not None:
        parameters, process_of_ours = workload.spec.parameter_count(), ours[0]
        turns.append(read_bandwidth)
    rows = medians(take_turns(name, turns, rounds, log))
    if workload.spec is None or task.command.get("sequences") != 1:
        return rows
    return rows + _roofline(workload, rows)


def _figures(workload: str, system: System, command: dict[str, Any], seconds: Any) -> Iterator[Row]:
    if command["do"] == "forward":
        yield Row(workload, system.label, "forward", seconds * 1e3, "ms")
        return
    prefill, decode = seconds
    sequences = command["sequences"]
    rate = sequences * command["prompt"] / prefill
    yield Row(workload, system.label, f"prefill, {system.weights}", rate, "tok/s")
    rate = sequences * command["steps"] / max(decode, 1e-9)
    yield Row(workload, system.label, f"decode, {system.weights}", rate, "tok/s")


def _roofline(workload: TimedWork, rows: Sequence[Row]) -> list[Row]:
    """How much of the read bandwidth decoding one sequence uses: every weight but the embedding once a token."""
    spec = workload.spec
    best = next((row.value * 1e9 for row in rows if row.metric == "read bandwidth"), None)
    if spec is None or best is None:
        return []
    read = spec.parameter_count() - (0 if spec.tied else spec.vocab_size * spec.hidden)
    return [
        Row(row.workload, row.system, "share of read bandwidth", row.value * read * width / best * 100, "%", row.spread)
        for row in rows
        if row.metric.startswith("decode")
        for width in [_width(workload, row)]
    ]


def _width(workload: TimedWork, row: Row) -> float:
    """Bytes that a system reads of a weight."""
    if row.ours:
        return WIDTHS.get(row.system.removeprefix("cutset "), workload.float_bytes)
    if row.system.endswith("16"):
        return 2.0
    return 4.0 if row.metric.endswith(FLOAT) else 1.0
