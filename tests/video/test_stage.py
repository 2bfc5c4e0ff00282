"""Stages compose to the whole module, bit for bit, hold only their weights, and free what nobody reads any more."""

from __future__ import annotations

import itertools
import random
import weakref
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn

from cutset.errors import GraphError
from cutset.video.imports.export import Exported, export
from cutset.video.stage import TorchStage
from cutset.video.zoo import build
from video.networks import InPlace, Many, Skips, Tied, filled


def picture(*shape: int, seed: int = 3) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 0.3


def run(exported: Exported, parts: list[list[int]], inputs: dict[str, Tensor]) -> list[Tensor]:
    """Runs the parts one after another, each with what it needs alone."""
    values = dict(inputs)
    for part in parts:
        stage = TorchStage(exported.graph, part, exported.tensors)
        made = stage.forward({name: values[name] for name in stage.inputs})
        assert set(made) == set(stage.outputs)
        values |= made
    return [values[name] for name in exported.graph.outputs]


def flat(result: Any) -> list[Tensor]:
    return [t for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, Tensor)]


CASES = [
    (Skips, [(1, 3, 9, 10)]),
    (InPlace, [(2, 2, 5, 5)]),
    (Many, [(2, 6), (2, 6)]),
    (Tied, [(3, 4)]),
]


@pytest.mark.parametrize(("network", "shapes"), CASES, ids=lambda v: v.__name__ if isinstance(v, type) else "")
def test_every_split_in_two_equals_the_module(network: type[nn.Module], shapes: list[tuple[int, ...]]) -> None:
    module = filled(network())
    inputs = [picture(*shape, seed=i) for i, shape in enumerate(shapes)]
    exported = export(module, *inputs)
    with torch.no_grad():
        expected = flat(module(*inputs))
    assert all(t.abs().max() > 0.01 for t in expected), "zeros would prove nothing"
    named = {v.name: t for v, t in zip(exported.graph.inputs, inputs, strict=True)}
    count = len(exported.graph.nodes)
    for k in range(count + 1):
        found = run(exported, [list(range(k)), list(range(k, count))], named)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), k
    one_each = run(exported, [[i] for i in range(count)], named)
    assert all(torch.equal(a, b) for a, b in zip(one_each, expected, strict=True))


def test_any_three_stages_in_any_legal_order_equal_the_module() -> None:
    module, x = filled(Skips()), picture(1, 3, 7, 6)
    exported = export(module, x)
    graph = exported.graph
    with torch.no_grad():
        expected = module(x)
    chooser = random.Random(5)
    for _ in range(12):
        order: list[int] = []
        while len(order) < len(graph.nodes):
            ready = [
                i
                for i in range(len(graph.nodes))
                if i not in order and all(graph.maker[n] in (-1, *order) for n in graph.nodes[i].reads)
            ]
            order.append(chooser.choice(ready))
        a, b = sorted(chooser.sample(range(len(order)), 2))
        [found] = run(exported, [order[:a], order[a:b], order[b:]], {"x": x})
        assert torch.equal(found, expected)


def test_a_network_of_the_zoo_in_four_stages_equals_itself() -> None:
    network = build("googlenet")
    pictures = torch.randint(0, 256, (1, 3, 64, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    exported = export(network, pictures)
    with torch.no_grad():
        expected = network(pictures)
    trunk = next(k for k in exported.graph.trunk if k > 60)
    cuts = [0, 20, trunk, 131, len(exported.graph.nodes)]  # two of them inside a block
    assert sum(len(exported.graph.cuts[k].values) > 1 for k in cuts) == 2
    parts = [list(range(a, b)) for a, b in itertools.pairwise(cuts)]
    [found] = run(exported, parts, {"pictures": pictures})
    assert torch.equal(found, expected)


def test_memory_order_is_restored_so_that_kernels_stay_the_same() -> None:
    module = filled(Skips()).to(memory_format=torch.channels_last)
    x = picture(1, 3, 16, 12).contiguous(memory_format=torch.channels_last)
    exported = export(module, x)
    assert any(value.order == (0, 2, 3, 1) for value in exported.graph.values.values())
    with torch.no_grad():
        expected = module(x)
    rows = {name: tensor.contiguous() for name, tensor in exported.tensors.items()}
    values = {"x": x.contiguous()}
    for i in range(len(exported.graph.nodes)):  # as after a link, which carries rows
        stage = TorchStage(exported.graph, [i], rows)
        assert all(t.stride() == exported.tensors[name].stride() for name, t in stage.weights.items())
        made = stage.forward(values)
        values |= {name: tensor.contiguous() for name, tensor in made.items()}
    assert torch.equal(values[exported.graph.outputs[0]], expected)


def test_a_stage_holds_only_its_weights() -> None:
    graph, tensors = export(filled(Skips()), picture(1, 3, 8, 8))
    for i in range(len(graph.nodes)):
        assert set(TorchStage(graph, [i], tensors).weights) == set(graph.nodes[i].weights)
    first = [node.name for node in graph.nodes].index("first")
    few = {name: tensors[name] for name in ("first.weight", "first.bias")}
    TorchStage(graph, [first], few)
    with pytest.raises(GraphError, match=r"the weight first\.bias is missing"):
        TorchStage(graph, [first], {"first.weight": few["first.weight"]})
    with pytest.raises(GraphError, match=r"weight first.bias is float64 \(4,\); the graph has float32 \(4,\)"):
        TorchStage(graph, [first], few | {"first.bias": torch.zeros(4, dtype=torch.float64)})


def test_values_are_freed_after_their_last_reader() -> None:
    graph, tensors = export(filled(Skips()), picture(1, 3, 8, 8))
    stage = TorchStage(graph, range(len(graph.nodes)), tensors)
    alive: dict[str, weakref.ref[Tensor]] = {}
    steps = itertools.count()
    for number, (node, call) in enumerate(stage._calls):

        def watched(*args: Any, call: Any = call, node: Any = node, **kwargs: Any) -> Any:
            k = next(steps)
            wanted = set(graph.cuts[k].values)
            assert {name for name, ref in alive.items() if ref() is not None} <= wanted, node.name
            made = call(*args, **kwargs)
            first = made[0] if node.several else made
            alive[node.made[0].name] = weakref.ref(first)
            return made

        stage._calls[number] = (node, watched)
    result = stage.forward({"x": picture(1, 3, 8, 8)})
    assert next(steps) == len(graph.nodes)
    assert [name for name, ref in alive.items() if ref() is not None] == list(result)


def test_outputs_share_memory_with_nothing() -> None:
    module = nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (2, 24)))
    exported = export(module, picture(1, 3, 4, 4))
    x = picture(1, 3, 4, 4)
    before = x.clone()
    [name] = exported.graph.outputs
    result = TorchStage(exported.graph, range(len(exported.graph.nodes)), exported.tensors).forward({"input": x})[name]
    result.zero_()
    assert torch.equal(x, before)
    chunks = export(filled(Many()), picture(2, 6), picture(2, 6))
    [at] = [i for i, node in enumerate(chunks.graph.nodes) if node.several]
    made = TorchStage(chunks.graph, range(at + 1), chunks.tensors).forward({"x": picture(2, 6), "y": picture(2, 6)})
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in made.values())
    assert len({tensor.untyped_storage().data_ptr() for tensor in made.values()}) == len(made)


def test_nothing_of_one_picture_is_left_for_the_next() -> None:
    module = filled(Skips())
    exported = export(module, picture(1, 3, 8, 8))
    stage = TorchStage(exported.graph, range(len(exported.graph.nodes)), exported.tensors)
    first, second = picture(1, 3, 8, 8, seed=1), picture(1, 3, 8, 8, seed=2)
    [name] = exported.graph.outputs
    one, two, again = (stage.forward({"x": x})[name] for x in (first, second, first))
    assert not torch.equal(one, two)
    assert torch.equal(one, again)


def test_bad_inputs_are_refused_and_each_node_is_timed() -> None:
    exported = export(filled(Skips()), picture(1, 3, 8, 8))
    count = len(exported.graph.nodes)
    stage = TorchStage(exported.graph, range(count), exported.tensors)
    with pytest.raises(GraphError, match="the input x is missing"):
        stage.forward({})
    with pytest.raises(GraphError, match=r"input x is float32 \(1, 3, 8, 9\); the graph has float32 \(1, 3, 8, 8\)"):
        stage.forward({"x": picture(1, 3, 8, 9)})
    with pytest.raises(GraphError, match="input x is uint8"):
        stage.forward({"x": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)})
    seen = []
    stage.forward({"x": picture(1, 3, 8, 8)}, lambda node, seconds: seen.append((node.name, seconds >= 0)))
    assert seen == [(node.name, True) for node in exported.graph.nodes]
