"""The plainest plan: about the same work for every worker, in the order in which they were named."""

from __future__ import annotations

from collections.abc import Sequence

from cutset.cluster.model import Model
from cutset.errors import ConfigError
from cutset.partition.plan import Plan, StagePlan

__all__ = ["even_plan"]


def even_plan(model: Model, workers: Sequence[str]) -> Plan:
    """Consecutive layers with about equal floating-point operations. Knows neither speeds nor links."""
    if not workers:
        raise ConfigError("a plan needs at least one worker")
    nodes, total, done = model.graph.nodes, model.graph.flops or 1, 0
    parts: list[list[int]] = [[] for _ in workers]
    for i, node in enumerate(nodes):
        at = min(int(done / total * len(workers)), len(workers) - 1)
        if model.graph.flops == 0:
            at = i * len(workers) // len(nodes)
        parts[at].append(i)
        done += node.flops
    stages = [StagePlan(name, tuple(part)) for name, part in zip(workers, parts, strict=True) if part]
    return Plan(model.digest, tuple(stages), scheduler="even split")
