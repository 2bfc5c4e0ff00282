"""Modules become graphs: names, costs, cuts, and what is said of those that can't."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn

from cutset.errors import GraphError
from cutset.partition.graph import Graph
from cutset.partition.node import Node, Read, Value
from cutset.video.imports.export import export
from video.networks import InPlace, Many, Skips, Tied, filled

PICTURE = torch.zeros(1, 3, 8, 8)


@pytest.fixture(scope="module")
def skips() -> Graph:
    return export(filled(Skips()), PICTURE).graph


def test_nodes_have_the_names_of_modules_and_no_writes(skips: Graph) -> None:
    names = [node.name for node in skips.nodes]
    assert len(set(names)) == len(names)
    assert {"first", "norm", "layers.3", "side.0", "side.2", "head"} <= set(names)
    assert [name for name in names if name.startswith("relu")] == ["relu", "relu#2", "relu#3", "relu#4", "relu#5"]
    assert "side.1" not in names, "dropout does nothing"
    assert not any(node.op.split(".")[1].endswith("_") for node in skips.nodes)
    norm = skips.nodes[names.index("norm")]
    assert norm.weights == ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    assert [value.name for value in norm.made] == ["norm"]


def test_a_module_stays_as_it_was() -> None:
    module = filled(Skips())
    module.layers[2].train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    _, tensors = export(module, PICTURE)
    assert [name for name, part in module.named_modules() if part.training] == ["layers.2"]
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert tensors["head.weight"].data_ptr() == module.head.weight.data_ptr(), "weights are not copied"
    assert not tensors["head.weight"].requires_grad


def crossing(graph: Graph, done: set[int]) -> set[str]:
    """What is alive across a cut, straight from the definition."""
    made = {v.name for v in graph.inputs} | {v.name for i in done for v in graph.nodes[i].made}
    rest = [node for i, node in enumerate(graph.nodes) if i not in done]
    return {name for name in made if name in graph.outputs or any(name in node.reads for node in rest)}


def test_the_cuts_of_the_order_are_what_is_alive(skips: Graph) -> None:
    assert len(skips.cuts) == len(skips.nodes) + 1
    for k, cut in enumerate(skips.cuts):
        assert set(cut.values) == crossing(skips, set(range(k)))
        assert cut.nbytes == sum(skips.values[name].nbytes for name in cut.values)
        assert skips.cut(k) == cut
    assert max(len(cut.values) for cut in skips.cuts) >= 4
    assert skips.trunk == tuple(k for k, cut in enumerate(skips.cuts) if len(cut.values) == 1)
    assert skips.cuts[-1].values == skips.outputs


def closed_sets(graph: Graph, count: int) -> list[set[int]]:
    """Random closed sets: the nodes in any order that respects who reads what, cut anywhere."""
    chooser, found = random.Random(7), []
    for _ in range(count):
        done: set[int] = set()
        for _ in range(chooser.randint(1, len(graph.nodes))):
            ready = [
                i
                for i, node in enumerate(graph.nodes)
                if i not in done and all(graph.maker[name] in done | {-1} for name in node.reads)
            ]
            done.add(chooser.choice(ready))
        found.append(done)
    return found


def test_any_closed_set_is_a_cut(skips: Graph) -> None:
    sets = closed_sets(skips, 30)
    assert any(done != set(range(len(done))) for done in sets)
    for done in sets:
        assert set(skips.cut(done).values) == crossing(skips, done)
    last = len(skips.nodes) - 1
    with pytest.raises(GraphError, match="no cut: head is before it"):
        skips.cut({last})
    for wrong in (-1, last + 2, {last + 1}, {-1}):
        with pytest.raises(GraphError, match=f"{last + 1} nodes"):
            skips.cut(wrong)


def test_a_stage_has_no_hole(skips: Graph) -> None:
    inputs, outputs = skips.boundary(range(len(skips.nodes)))
    assert (inputs, outputs) == (("x",), skips.outputs)
    names = [node.name for node in skips.nodes]
    with pytest.raises(GraphError, match="what lies between its layers: "):
        skips.boundary({names.index("first"), names.index("layers.1")})
    side, first = names.index("side.0"), names.index("first")
    assert skips.boundary({side, first}) == (("x",), ("side.0", "first")), "two branches are no hole"


def test_costs_are_those_of_the_shapes() -> None:
    module = nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.ConvTranspose2d(6, 5, 2, stride=2, bias=False),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(5 * 16, 7, bias=False),
    )
    graph, _ = export(module, torch.zeros(2, 4, 8, 8))
    costs = {node.name: node.flops for node in graph.nodes}
    assert costs["0"] == 2 * (2 * 6 * 4 * 4) * (2 * 9) + 2 * 6 * 4 * 4
    assert costs["1"] == 2 * (2 * 6 * 4 * 4) * (5 * 4)
    assert costs["2"] == 2 * 5 * 4 * 4 * 4
    assert costs["4"] == 2 * 2 * 7 * 80
    assert graph.flops == sum(costs.values())
    assert graph.weight_bytes([0]) == 4 * (6 * 2 * 9 + 6)
    assert graph.values["0"].nbytes == 4 * 2 * 6 * 4 * 4


def test_a_tied_weight_counts_once() -> None:
    graph, tensors = export(filled(Tied()), torch.zeros(2, 4))
    everything = range(len(graph.nodes))
    assert sum(graph.weight_bytes([i]) for i in everything) == graph.weight_bytes(everything) + 64
    assert len(tensors) == 3


def test_the_most_memory_of_a_stage(skips: Graph) -> None:
    """Against a run by hand: values are counted when made, and gone after their last reader."""
    for begin, end in itertools.combinations(range(len(skips.nodes) + 1), 2):
        chosen = range(begin, end)
        takes, gives = skips.boundary(chosen)
        held, most = {name: skips.values[name].nbytes for name in takes}, 0
        for i in chosen:
            held |= {value.name: value.nbytes for value in skips.nodes[i].made}
            most = max(most, sum(held.values()))
            for name in list(held):
                if name not in gives and not any(name in skips.nodes[j].reads for j in range(i + 1, end)):
                    del held[name]
        assert skips.peak_bytes(chosen) == most


def test_several_inputs_and_outputs() -> None:
    x, y = torch.zeros(2, 6), torch.zeros(2, 6)
    graph, tensors = export(filled(Many()), x, y)
    assert [value.name for value in graph.inputs] == ["x", "y"]
    assert graph.outputs[0] == "a"
    assert graph.outputs[2] == "y"
    assert "scale" in tensors
    [chunk] = [node for node in graph.nodes if node.several]
    assert [value is None for value in chunk.outputs] == [False, True, False]
    assert all("a" in cut.values for cut in graph.cuts[1:]), "an early output is alive to the end"


def test_a_write_through_a_view_becomes_functional() -> None:
    graph, _ = export(filled(InPlace()), torch.zeros(1, 2, 4, 4))
    assert graph.inputs[0].shape == (1, 2, 4, 4)
    assert not any(node.op.split(".")[1] in ("mul_", "relu_") for node in graph.nodes)


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x + 1
        return x - 1


class Grows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.nonzero(x)


class Draws(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return x * self.calls


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 11)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x)
        return result


class Complex(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x).real + x


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x + 1, None


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (Branches(), r"Branches can't be exported at test_graph.py:\d+ `if x.sum\(\) > 0:`.*values of a picture"),
        (Grows(), "nonzero"),
        (Draws(), r"Draws can't be cut: operator aten.rand\w*.* draws random numbers"),
        (Counts(), "Counts can't be cut: a call changes its buffer calls"),
        (Small(), r"Small can't be exported.*[Kk]ernel size"),
        (Complex(), "Complex can't be cut: .* makes complex64"),
        (Nothing(), "Nothing can't be cut: it returns None"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_cannot_be_exported_says_why(module: nn.Module, says: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(GraphError, match=says) as caught:
        export(module, PICTURE)
    assert len(str(caught.value).splitlines()) <= 2
    assert len(str(caught.value)) < 500
    assert capfd.readouterr() == ("", ""), "torch prints whole graphs"


def node(name: str, *reads: str, makes: str = "") -> Node:
    value = Value(makes or name, (1,), "float32")
    return Node(name, "", "aten.relu.default", tuple(map(Read, reads)), (), (value,), False, 1)


@pytest.mark.parametrize(
    ("nodes", "outputs", "says"),
    [
        ([node("a", "b"), node("b", "x")], ("a",), "a reads 'b', which no node before it makes"),
        ([node("a", "x"), node("b", "x", makes="a")], ("a",), "b makes 'a', which is there already"),
        ([node("a", "x")], ("b",), "the output 'b' is made by no node"),
    ],
)
def test_a_graph_that_is_none_is_refused(nodes: list[Node], outputs: tuple[str, ...], says: str) -> None:
    with pytest.raises(GraphError, match=says):
        Graph((Value("x", (1,), "float32"),), outputs, tuple(nodes), {})
