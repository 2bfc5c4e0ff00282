"""Even shares of weights within the workers' memory, against all ways to divide."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from cutset.errors import GraphError
from cutset.partition.description import describe, graph_digest, read_description
from cutset.partition.graph import Graph
from cutset.partition.memory import order_bytes, stage_memory
from cutset.partition.node import Node, Read, Value, Weight
from cutset.partition.schedulers.by_weight import by_weight


def chain(sizes: list[int], state: list[int] | None = None, shared: bool = False) -> Graph:
    """Nodes with so many bytes of weights; the first and the last one share one of 5 bytes where that is asked for."""
    values = [Value(f"v{i}", (10,), "uint8", bounded=True) for i in range(len(sizes) + 1)]
    weights = {f"w{i}": Value(f"w{i}", (size,), "uint8") for i, size in enumerate(sizes)}
    weights["both"] = Value("both", (5,), "uint8")
    nodes = []
    for i in range(len(sizes)):
        own = [Weight(f"w{i}"), *([Weight("both")] if shared and i in (0, len(sizes) - 1) else [])]
        kept = 0 if state is None else state[i]
        nodes.append(Node(f"n{i}", "", "op", (Read(values[i].name), *own), (), (values[i + 1],), False, 1, kept))
    return Graph((values[0],), (values[-1].name,), tuple(nodes), weights)


def best(graph: Graph, workers: list[str], memory: dict[str, float]) -> float | None:
    """The least largest share of all ways to divide, by hand."""
    count, found = len(graph.nodes), math.inf
    for inner in itertools.combinations_with_replacement(range(count + 1), len(workers) - 1):
        edges = [0, *inner, count]
        most = 0
        for worker, first, last in zip(workers, edges, edges[1:], strict=False):
            nodes = range(first, last)
            if not nodes:
                continue
            need = stage_memory(graph, nodes, graph.cuts[first].nbytes, graph.cuts[last].nbytes, 2)
            if memory.get(worker, 0) and need > memory[worker]:
                most = math.inf
            most = max(most, graph.weight_bytes(nodes))
        found = min(found, most)
    return None if found == math.inf else found


@pytest.mark.parametrize("seed", range(40))
def test_the_largest_share_is_the_least_there_is(seed: int) -> None:
    random = np.random.default_rng(seed)
    count, workers = int(random.integers(1, 8)), [f"w{i}" for i in range(random.integers(1, 4))]
    graph = chain(
        random.integers(0, 90, count).tolist(), random.integers(0, 90, count).tolist(), bool(random.integers(2))
    )
    memory = {name: float(random.choice([0, 150, 250, 400])) for name in workers}
    plan = by_weight(graph, workers, memory, 2)
    wanted = best(graph, workers, memory)
    if plan is None:
        assert wanted is None
        return
    assert [i for stage in plan for i in stage.nodes] == list(range(count))
    assert max(graph.weight_bytes(stage.nodes) for stage in plan) == wanted
    for stage in plan:
        first, last = stage.nodes[0], stage.nodes[-1] + 1
        need = stage_memory(graph, stage.nodes, graph.cuts[first].nbytes, graph.cuts[last].nbytes, 2)
        assert not memory[stage.worker] or need <= memory[stage.worker]


def test_all_work_where_they_can() -> None:
    plan = by_weight(chain([10, 10, 10, 40]), ["a", "b", "c"], {}, 1)
    assert plan is not None
    assert [stage.worker for stage in plan] == ["a", "b", "c"]


def test_a_worker_with_too_little_memory_is_left_out() -> None:
    plan = by_weight(chain([100, 100]), ["a", "small", "c"], {"small": 50.0}, 1)
    assert plan is not None
    assert [(stage.worker, stage.nodes) for stage in plan] == [("a", (0,)), ("c", (1,))]
    assert by_weight(chain([100, 100]), ["small"], {"small": 50.0}, 1) is None


def test_state_counts_as_memory() -> None:
    graph = chain([1, 2, 3], [10, 20, 30])
    without = chain([1, 2, 3])
    for nodes in ([0], [1, 2], [0, 1, 2]):
        more = stage_memory(graph, nodes, 0, 0, 1) - stage_memory(without, nodes, 0, 0, 1)
        assert more == sum(graph.nodes[i].state for i in nodes)
    for first, last, more in ((0, 1, 10), (1, 3, 50), (0, 3, 60)):
        assert order_bytes(graph)[first, last] - order_bytes(without)[first, last] == more


def test_bounded_values_and_state_are_described() -> None:
    graph = chain([1, 2], [7, 0])
    table = json.loads(json.dumps(describe(graph)))
    assert read_description(table) == graph
    assert graph_digest(graph) != graph_digest(chain([1, 2]))
    assert "state" not in table["nodes"][1], "digests of graphs without state are as before"
    for change in (
        ["v0", "float32", [10], "bounded"],
        ["v0", "uint8", [2, 5], "bounded"],
        ["v0", "uint8", [10], "Bounded"],
    ):
        with pytest.raises(GraphError):
            read_description(table | {"inputs": [change]})
    table["nodes"][0]["state"] = -1
    with pytest.raises(GraphError):
        read_description(table)
