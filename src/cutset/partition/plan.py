"""A plan: which worker runs which layers, in which order an item passes them, and how it reaches the first of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from cutset.errors import ConfigError
from cutset.partition.graph import Graph
from cutset.reading import read_bytes, read_struct

__all__ = ["COORDINATOR", "Plan", "StagePlan", "read_plan", "write_plan"]

COORDINATOR = "coordinator"
FORMAT = "cutset-plan-1"
MOST_BYTES = 16 << 20  # of a plan's file
MOST_NODES = 100_000
ORDINARY = "uint8"  # what the file calls the input that is sent as ordinary payloads


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One worker's share: the nodes that it runs, by their numbers in the graph, rising."""

    worker: str
    nodes: tuple[int, ...]
    runtime: str = ""  # what computes them there; "": the worker's choice. Whoever runs stages knows which there are
    dense: bool = False  # computes all of every item, also in a run whose stages may compute what changed alone


@dataclass(frozen=True, slots=True)
class Plan:
    """Stages in the order in which an item passes them. A worker that runs nothing has none.

    `input` names an encoding in which items reach the first stage instead of as ordinary payloads (keys and deltas, as
    on every other hop), which is what "" stands for. Whoever feeds the plan knows which names there are.
    """

    graph: str  # SHA-256 of the graph's description
    stages: tuple[StagePlan, ...]
    input: str = ""
    scheduler: str = ""  # who made it

    def check(self, graph: Graph, digest: str) -> None:
        """Raises ConfigError unless this plan is for that graph and its stages are legal, and cover it once."""
        if self.graph != digest:
            raise ConfigError(
                f"this plan is for another model or input size (graph {self.graph[:12]}, not {digest[:12]})"
            )
        done: set[int] = set()
        for stage in self.stages:
            if not stage.nodes or list(stage.nodes) != sorted(set(stage.nodes)):
                raise ConfigError(f"the plan's stage on {stage.worker} must name rising numbers of nodes, each once")
            if done & set(stage.nodes):
                raise ConfigError(f"the plan gives {stage.worker} nodes that an earlier stage runs")
            done |= set(stage.nodes)
            graph.cut(done)
        if len(done) != len(graph.nodes):
            raise ConfigError(f"the plan runs {len(done)} of the graph's {len(graph.nodes)} nodes")
        if len({stage.worker for stage in self.stages}) != len(self.stages):
            raise ConfigError("the plan names a worker twice; an item passes each once")

    def edges(self, graph: Graph, *, direct: bool = False) -> tuple[tuple[str, ...], ...]:
        """The names of the values on each hop: coordinator to first stage, stage to stage, last stage to coordinator.

        One more than there are stages. A value that a later stage needs is on every hop up to there, so a stage passes
        on what it doesn't use; but where inputs go `direct` from the coordinator to their `readers`, they are on no hop
        between stages. On the last hop are the graph's outputs.
        """
        inputs = {value.name for value in graph.inputs} if direct else set()
        done: set[int] = set()
        found = [graph.cut(done).values]
        for stage in self.stages:
            done |= set(stage.nodes)
            last = len(done) == len(graph.nodes)
            found.append(tuple(name for name in graph.cut(done).values if last or name not in inputs))
        return tuple(found)

    def readers(self, graph: Graph) -> tuple[bool, ...]:
        """Of each stage, whether it reads an input of the graph."""
        inputs = {value.name for value in graph.inputs}
        return tuple(any(not inputs.isdisjoint(graph.nodes[i].reads) for i in stage.nodes) for stage in self.stages)


class _Stage(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    worker: str
    nodes: list[int | list[int]]  # numbers, and [first, last] for ranges
    runtime: Annotated[str, msgspec.Meta(max_length=40)] = ""
    dense: bool = False


class _File(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    graph: str
    stages: list[_Stage]
    input: Annotated[str, msgspec.Meta(min_length=1, max_length=40)] = msgspec.field(name="picture")
    scheduler: str


def write_plan(plan: Plan) -> bytes:
    """A plan as JSON, for a file or a message."""
    stages = [_Stage(stage.worker, _ranges(stage.nodes), stage.runtime, stage.dense) for stage in plan.stages]
    file = _File(FORMAT, plan.graph, stages, plan.input or ORDINARY, plan.scheduler)
    return msgspec.json.format(msgspec.json.encode(file), indent=1)


def read_plan(source: Path | bytes) -> Plan:
    """The plan of a file or of `write_plan`'s bytes. Raises ConfigError for what is no plan."""
    data = read_bytes(source, MOST_BYTES, "plan") if isinstance(source, Path) else source
    file = read_struct(data, _File, "this is not a plan")
    json.loads(data, object_pairs_hook=_once)
    if file.format != FORMAT:
        raise ConfigError(f"this is not a plan: its format is not {FORMAT}")
    stages = tuple(StagePlan(one.worker, _numbers(one.nodes), one.runtime, one.dense) for one in file.stages)
    return Plan(file.graph, stages, "" if file.input == ORDINARY else file.input, file.scheduler)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for i, (name, _) in enumerate(pairs) if name in [other for other, _ in pairs[:i]])
        raise ConfigError(f"this is not a plan: {twice!r} is said twice")
    return found


def _ranges(numbers: Sequence[int]) -> list[int | list[int]]:
    found: list[int | list[int]] = []
    start = 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1:
            found.append(numbers[start] if i - start == 1 else [numbers[start], numbers[i - 1]])
            start = i
    return found


def _numbers(ranges: list[int | list[int]]) -> tuple[int, ...]:
    found: list[int] = []
    for entry in ranges:
        first, last = (entry, entry) if isinstance(entry, int) else (entry[0], entry[-1]) if len(entry) == 2 else (1, 0)
        if not 0 <= first <= last < MOST_NODES:
            raise ConfigError(f"this is not a plan: {str(entry)[:60]} is no range of nodes")
        if len(found) + last - first >= MOST_NODES:
            raise ConfigError(f"this is not a plan: a stage has more than {MOST_NODES:,} nodes")
        found += range(first, last + 1)
    return tuple(found)
