"""`cutset bench decode`: Cutset and other people's programs on the same weights, in turns, in one run.

Every system runs in a process of its own with the same number of threads, loads once, and is asked in turn, round after
round, so that a noisy neighbour disturbs all of them alike. Figures are medians over the rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutset.compare.results import Row, summarise
from cutset.errors import EngineError
from cutset.link.launch import PIPE, Child, environment
from cutset.models.random import RandomModel

__all__ = ["OPPONENTS", "WORKLOADS", "System", "Workload", "run_workload"]

OPPONENTS = (
    "transformers",
    "torch.compile",
    "ctranslate2 float32",
    "ctranslate2 int8",
    "llama.cpp f32",
    "llama.cpp q8_0",
)
FLOAT = ("native float32", "transformers", "torch.compile", "ctranslate2 float32", "llama.cpp f32")
INTEGER = ("native int8", "native exact", "ctranslate2 int8", "llama.cpp q8_0")


@dataclass(frozen=True, slots=True)
class Task:
    """Something that systems are timed at; `systems` are those for which it is what they are there for."""

    name: str
    command: dict[str, Any]
    systems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Workload:
    """A random model and what is done with it."""

    name: str
    model: RandomModel
    tasks: tuple[Task, ...]

    @property
    def systems(self) -> tuple[str, ...]:
        """All that take part."""
        return tuple(dict.fromkeys(system for task in self.tasks for system in task.systems))


def _forward(systems: tuple[str, ...]) -> Task:
    return Task("forward 2x5", {"do": "forward", "batch": 2, "tokens": 5, "repeat": 20}, systems)


def _generate(sequences: int, systems: tuple[str, ...]) -> Task:
    name = "prefill 128, decode 64" + (f", {sequences} sequences" if sequences > 1 else "")
    return Task(name, {"do": "generate", "sequences": sequences, "prompt": 128, "steps": 64}, systems)


ALL = FLOAT + INTEGER
MANY = tuple(system for system in ALL if system != "torch.compile")  # which takes minutes to compile this once more
WORKLOADS = {
    "tiny": Workload("tiny", RandomModel(), (_forward(ALL[:4] + INTEGER[:3]),)),
    "minimind": Workload(
        "minimind",
        RandomModel(hidden=512, layers=8, vocab=6400, max_pos=1024),
        (_forward(ALL[:4] + INTEGER[:3]), _generate(1, ALL)),
    ),
    "w246": Workload(
        "w246",
        RandomModel(
            hidden=1024, layers=16, heads=16, kv_heads=4, intermediate=2816, vocab=32000, max_pos=1024, tied=False
        ),
        (_generate(1, ALL), _generate(8, MANY)),
    ),
}


class System:
    """A system in its own process. Raises EngineError if it can't start."""

    def __init__(self, name: str, folder: Path, threads: int, python: str) -> None:
        self.name = name
        ours = name.startswith("native")
        program = ["cutset.bench.own"] if ours else [python, str(Path(__file__).with_name("opponents.py"))]
        # Everyone waits as they choose: with OMP_WAIT_POLICY=PASSIVE llama.cpp decodes at half its speed, with ACTIVE
        # its idle threads would slow the others down. By default OpenMP spins a little and then sleeps.
        self.child = Child(
            f"{name}: its process",
            [*program, name, str(folder), "--threads", str(threads)],
            own=ours,
            env=environment(threads, drop=("CUTSET_", "OMP_")),
            stdin=PIPE,
            stdout=PIPE,
        )
        answer = self._answer()
        self.versions: dict[str, str] = answer["versions"]
        self.rss, self.rss_before = int(answer["rss"]), int(answer["rss_before"])

    def _answer(self) -> dict[str, Any]:
        answer = self.child.answer()
        if "error" in answer:
            raise EngineError(f"{self.name}: {answer['error']}")
        return answer

    def ask(self, command: dict[str, Any]) -> Any:
        """Seconds, one or two of them; None where the system can't do that. Raises EngineError if it failed."""
        self.child.ask(command)
        answer = self._answer()
        return answer.get("seconds", answer.get("rss"))

    def close(self) -> None:
        """Ends the process."""
        self.child.end(20)


def run_workload(
    workload: Workload,
    folder: Path,
    *,
    threads: int,
    rounds: int,
    python: str,
    wanted: Iterable[str],
    tell: Callable[[str], None],
) -> tuple[list[Row], dict[str, str]]:
    """Times every wanted system at the workload's tasks; rows, and versions of the opponents."""
    systems: dict[str, System] = {}
    versions: dict[str, str] = {}
    rows: list[Row] = []
    try:
        for name in workload.systems:
            if name in wanted:
                tell(f"{workload.name}: starting {name}")
                try:
                    systems[name] = System(name, folder, threads, python)
                except EngineError as error:
                    tell(f"{workload.name}: without {error}")
                else:
                    versions |= systems[name].versions
        for task in workload.tasks:
            taking_part = [system for name, system in systems.items() if name in task.systems]
            rows += _run_task(workload, task, taking_part, threads, rounds, tell)
    finally:
        for system in systems.values():
            system.close()
    return rows, versions


def _run_task(
    workload: Workload, task: Task, systems: list[System], threads: int, rounds: int, tell: Callable[[str], None]
) -> list[Row]:
    samples: dict[tuple[str, str], list[float]] = {}
    bandwidth: list[float] = []
    ours = next((system for system in systems if system.name.startswith("native")), None)
    size = workload.model.spec().parameter_count()
    for number in range(-1, rounds):  # one round to warm up
        for system in list(systems):
            try:
                seconds = system.ask(task.command)
            except EngineError as error:  # a finding, not an end
                if system.name.startswith("native"):
                    raise
                tell(f"{workload.name}: {task.name}: without {error}")
                systems.remove(system)
                continue
            if number >= 0 and seconds is not None:
                for metric, value in _figures(task.command, seconds).items():
                    samples.setdefault((system.name, metric), []).append(value)
        if ours is not None and task.command["do"] == "generate" and number >= 0:
            bandwidth.append(ours.ask({"do": "bandwidth", "size": max(size, 1 << 26)}))
        tell(f"{workload.name}: {task.name}: round {number + 1} of {rounds}")
    name = f"{workload.name}: {task.name}"
    rows = []
    for (system_name, metric), values in samples.items():
        label = f"cutset {system_name}" if system_name.startswith("native") else system_name
        if metric != "forward":  # whole-number weights race each other, and floats each other
            metric += ", 8-bit weights" if system_name in INTEGER else ", float32"
        unit = "ms" if metric == "forward" else "tok/s"
        rows.append(summarise(name, label, metric, values, unit))
    if bandwidth:
        rows.append(summarise(name, "this machine", "read bandwidth", [b / 1e9 for b in bandwidth], "GB/s"))
        rows += _roofline(workload, name, rows, bandwidth)
    return rows


def _figures(command: dict[str, Any], seconds: Any) -> dict[str, float]:
    if command["do"] == "forward":
        return {"forward": seconds * 1e3}
    prefill, decode = seconds
    sequences = command["sequences"]
    return {
        "prefill": sequences * command["prompt"] / prefill,
        "decode": sequences * command["steps"] / max(decode, 1e-9),
    }


def _roofline(workload: Workload, name: str, rows: list[Row], bandwidth: list[float]) -> list[Row]:
    """How much of the read bandwidth decoding one sequence uses: every weight but the embedding once a token."""
    spec = workload.model.spec()
    read = spec.parameter_count() - (0 if spec.tied else spec.vocab_size * spec.hidden)
    best = sorted(bandwidth)[len(bandwidth) // 2]
    return [
        Row(name, row.system, "share of read bandwidth", row.value * read * width / best * 100, "%", row.spread)
        for row in rows
        if row.metric.startswith("decode") and "sequences" not in name
        for width in [4 if row.metric.endswith("float32") else 1]
    ]
