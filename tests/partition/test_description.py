"""A graph survives the way through JSON; what is damaged or would run something else is refused."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn

from cutset.errors import GraphError
from cutset.partition.description import FORMAT, describe, graph_digest, read_description
from cutset.partition.graph import Graph
from cutset.video.imports.export import export
from cutset.video.imports.operators import resolve
from cutset.video.stage import TorchStage
from video.networks import Many, Skips, filled


class Odd(nn.Module):
    """Arguments of every kind: infinity, a dtype, a device, a memory format, None in a list, a string."""

    def forward(self, x: Any) -> Any:
        y = torch.nn.functional.hardtanh(x, 0.5, float("inf")).to(torch.float64)
        y = y + torch.arange(4, dtype=torch.float64, device=x.device)
        z = y.permute(0, 2, 1).contiguous() * 2
        return torch.div(z[:, torch.tensor([2, 0])], 3, rounding_mode="floor")


@pytest.fixture(scope="module")
def graph() -> Graph:
    return export(filled(Skips()), torch.zeros(1, 3, 8, 8)).graph


@pytest.mark.parametrize(
    ("module", "inputs"),
    [
        (Skips(), [torch.ones(1, 3, 8, 8)]),
        (Many(), [torch.ones(2, 6), torch.ones(2, 6)]),
        (Odd(), [torch.rand(2, 3, 4)]),
    ],
    ids=["skips", "many", "odd"],
)
def test_a_graph_survives_json_and_runs(module: nn.Module, inputs: list[Any]) -> None:
    filled(module)
    graph, tensors = export(module, *inputs)
    again = read_description(json.loads(json.dumps(describe(graph), allow_nan=False)))
    assert again == graph
    assert graph_digest(again) == graph_digest(graph)
    named = {value.name: x for value, x in zip(graph.inputs, inputs, strict=True)}
    everything = range(len(graph.nodes))
    one, two = (TorchStage(g, everything, tensors).forward(named) for g in (graph, again))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    if isinstance(module, Odd):
        assert torch.equal(one[graph.outputs[0]], module(*inputs))


def test_the_digest_is_of_layers_and_shapes_not_of_values(graph: Graph) -> None:
    assert graph_digest(export(filled(Skips(), seed=5), torch.ones(1, 3, 8, 8)).graph) == graph_digest(graph)
    assert graph_digest(export(filled(Skips()), torch.ones(1, 3, 8, 9)).graph) != graph_digest(graph)


def test_a_graph_without_values_is_the_same(graph: Graph) -> None:
    with torch.device("meta"):
        empty = Skips()
    assert export(empty, torch.zeros(1, 3, 8, 8, device="meta")).graph == graph


def damaged(table: dict[str, Any], *path: Any, value: Any) -> dict[str, Any]:
    table = copy.deepcopy(table)
    place: Any = table
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return table


def test_what_is_no_graph_is_refused(graph: Graph) -> None:
    table = describe(graph)
    value = ["x", "float32", [1, 3, 8, 8], None]
    bad: list[Any] = [None, [], {}, {"format": FORMAT}, {"format": "other"}]
    bad += [damaged(table, "nodes", value=n) for n in (None, 3, [None], [{}], [[]])]
    bad += [damaged(table, "inputs", 0, value=v) for v in (None, [], ["x"], [*value, 1], value[:3])]
    for i, wrong in ((0, 7), (1, "float3"), (1, None), (2, [-1]), (2, [1.5]), (2, [True]), (2, [1 << 45]), (2, 3)):
        bad.append(damaged(table, "inputs", 0, value=[*value[:i], wrong, *value[i + 1 :]]))
    bad += [damaged(table, "inputs", 0, value=[*value[:3], order]) for order in ([0], [0, 1, 2, 2], ["a"])]
    deep: Any = 1
    for _ in range(9):
        deep = [deep]
    arguments = [{"read": 3}, {"code": "x"}, {}, {"read": "x", "weight": "y"}, {"float": "1"}, "x" * 2000, deep]
    bad += [damaged(table, "nodes", 0, "args", value=[argument]) for argument in arguments]
    bad += [damaged(table, "nodes", 0, "args", 0, value={"read": "nobody"})]
    bad += [damaged(table, "nodes", 0, "flops", value=-1), damaged(table, "nodes", 0, "several", value=1)]
    bad += [damaged(table, "nodes", 0, "kwargs", value=[])]
    for description in bad:
        with pytest.raises(GraphError) as caught:
            read_description(description)
        assert len(str(caught.value)) < 300


class Attention(nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.nn.functional.scaled_dot_product_attention(x, x + 1, x * 2)


def test_dropout_may_stand_in_a_graph_while_it_is_off() -> None:
    module, x = Attention(), torch.rand(2, 2, 5, 8)
    graph, tensors = export(module, x)
    [at] = [i for i, node in enumerate(graph.nodes) if "attention" in node.op]
    with torch.no_grad():
        expected = module(x)
    [found] = TorchStage(graph, range(len(graph.nodes)), tensors).forward({"x": x}).values()
    assert torch.equal(found, expected)
    assert graph.nodes[at].flops == 2 * (2 * 2 * 5) * 5 * (8 + 8)
    table = describe(graph)
    table["nodes"][at]["args"] = [*table["nodes"][at]["args"][:3], None, 0.5]
    with pytest.raises(GraphError, match="draws random numbers"):
        TorchStage(read_description(table), [at], tensors)


@pytest.mark.parametrize(
    "name",
    [
        "os.system.default",
        "aten.system",
        "aten.__class__.default",
        "aten.conv2d.__init__",
        "aten.no_such.default",
        "torchvision.nms.default",
        "aten.from_file.default",  # would open a file
        "aten.relu_.default",  # would write to what it is given
        "aten.rand.default",
        "aten.bernoulli.default",
        "aten.item.default",
        "aten.conv2d.default\n",
    ],
)
def test_only_pure_operators_of_torch_run(graph: Graph, name: str) -> None:
    with pytest.raises(GraphError, match="operator"):
        resolve(name)
    forged = read_description(damaged(describe(graph), "nodes", 0, "op", value=name))
    with pytest.raises(GraphError):
        TorchStage(forged, [0], {value: torch.zeros(1) for value in forged.weights})
