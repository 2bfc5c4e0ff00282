"""What torch chooses kernels by, besides values: it shows in the last bits, so stages must choose as modules do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn

from cutset.errors import GraphError
from cutset.partition.description import describe, read_description
from cutset.partition.node import Value, Weight
from cutset.video.imports.export import export
from cutset.video.torch_model import TorchModel
from video.test_layout import Does, wrong_cuts


def picture() -> Tensor:
    return torch.randn(2, 8, 12, 10, generator=torch.Generator().manual_seed(5))


class Tokens(nn.Module):
    """Patches of a picture, and a layer for them."""

    def __init__(self, layer: nn.Module, call: Callable[[Any, Tensor], Any] = lambda layer, y: layer(y)) -> None:
        super().__init__()
        self.patches, self.layer, self.call = nn.Conv2d(8, 16, 4, 3), layer, call

    def forward(self, x: Tensor) -> Any:
        return self.call(self.layer, self.patches(x).flatten(2).transpose(1, 2))


PRODUCTS: dict[str, Callable[[Any, Tensor], Any]] = {
    "of a parameter": lambda m, x: m.conv(x).transpose(1, 3) @ m.linear.weight.t(),
    "without a bias": lambda m, x: nn.functional.linear(m.conv(x).permute(0, 3, 2, 1), m.linear.weight),
    "of a part of one": lambda m, x: nn.functional.linear(m.conv(x).permute(0, 3, 2, 1), m.linear.weight.chunk(2)[1]),
    "of a sum": lambda m, x: m.conv(x).transpose(1, 3) @ (m.linear.weight + 1).t(),
}


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("trained", [True, False])
def test_products_are_folded_as_in_the_module(product: str, trained: bool) -> None:
    """torch folds pictures and rows together for a matrix that requires a gradient, though none is computed."""
    torch.manual_seed(0)
    module = Does(PRODUCTS[product]).eval().requires_grad_(trained)
    wrong, exported = wrong_cuts(module, picture())
    assert not wrong
    weights = exported.graph.weights.values()
    assert all(value.requires_grad == trained for value in weights)
    assert not any(tensor.requires_grad for tensor in exported.tensors.values())
    assert read_description(json.loads(json.dumps(describe(exported.graph), allow_nan=False))) == exported.graph


def test_the_two_ways_to_fold_differ() -> None:
    """Else the test above would show nothing."""
    torch.manual_seed(0)
    differ = []
    for depth in (8, 16, 31, 64):  # at which it shows depends on the processor
        rows, matrix = torch.randn(1, 16, depth).transpose(0, 1), nn.Parameter(torch.randn(depth, depth))
        with torch.no_grad():
            differ.append(not torch.equal(rows @ matrix, rows @ matrix.detach()))
    assert any(differ)


def test_only_floats_require_gradients() -> None:
    table = describe(export(nn.Linear(3, 2), torch.zeros(1, 3)).graph)
    [[name, dtype, shape, layout, flag], _] = table["weights"]
    assert flag is True
    for row in (
        [name, dtype, shape, layout, 1],
        [name, dtype, shape, layout, False],
        [name, dtype, shape, layout, True, True],
        [name, "int64", shape, layout, True],
        [name, "bool", shape, layout, [True]],
    ):
        with pytest.raises(GraphError):
            read_description(table | {"weights": [row, table["weights"][1]]})
    assert not Value("v", (1,), "float32").requires_grad


def layers() -> dict[str, nn.Module]:
    def block(**how: Any) -> nn.Module:
        return nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, **how)

    def attention(**how: Any) -> nn.Module:
        return Tokens(nn.MultiheadAttention(16, 4, batch_first=True, **how), lambda layer, y: layer(y, y, y))

    def hidden(layer: Any, y: Tensor) -> Any:
        return layer(y, y, y, key_padding_mask=torch.arange(y.shape[1]).expand(2, -1) > 7, need_weights=False)[0]

    def across(layer: Any, y: Tensor) -> Any:
        return layer(y * 2, y, y)

    return {
        "attention": attention(),
        "attention without biases": attention(bias=False),
        "attention with other biases": attention(add_bias_kv=True),
        "attention with a mask": Tokens(nn.MultiheadAttention(16, 4, batch_first=True), hidden),
        "attention to others": Tokens(nn.MultiheadAttention(16, 4, batch_first=True), across),
        "attention, pictures second": Tokens(nn.MultiheadAttention(16, 4), lambda layer, y: layer(y, y, y)[0]),
        "block": Tokens(block()),
        "block, norm first": Tokens(block(norm_first=True)),
        "block, gelu": Tokens(block(activation="gelu")),
        "blocks": Tokens(nn.TransformerEncoder(block(), 2, norm=nn.LayerNorm(16))),
        "decoder": Tokens(nn.TransformerDecoderLayer(16, 4, 24, batch_first=True), lambda layer, y: layer(y, y * 2)),
    }


@pytest.mark.parametrize("name", layers())
def test_layers_of_attention_have_the_bits_of_inference(name: str) -> None:
    torch.manual_seed(0)
    wrong, exported = wrong_cuts(layers()[name].eval(), picture())
    assert not wrong, exported.graph.nodes


def test_a_fused_layer_counts_what_its_parts_would() -> None:
    torch.manual_seed(0)
    module, n, d, hidden = layers()["block"].eval(), 9, 16, 24
    fused = export(module, picture()).graph
    assert torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        parts = export(module, picture()).graph
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    [layer] = [node for node in fused.nodes if node.op == "aten._transformer_encoder_layer_fwd.default"]
    assert layer.flops == 2 * 2 * n * (3 * d * d + d * d + 2 * d * hidden + 2 * n * d)
    total = sum(node.flops for node in parts.nodes)
    assert 0.8 * total < sum(node.flops for node in fused.nodes) <= total
    assert len(parts.nodes) > 3 * len(fused.nodes)


def test_exporting_leaves_torchs_layers_alone() -> None:
    before = nn.MultiheadAttention.forward, nn.TransformerEncoderLayer.forward
    with pytest.raises(GraphError):
        export(Tokens(nn.MultiheadAttention(16, 4), lambda layer, y: layer(y, y, y)[0].nonzero()), picture())
    assert (nn.MultiheadAttention.forward, nn.TransformerEncoderLayer.forward) == before


def test_a_compiled_module_is_run_as_it_was_written() -> None:
    """A compiler's kernels round otherwise; this one so that it can be seen."""
    inner = nn.Conv2d(8, 4, 3)
    compiled: Any = torch.compile(inner, backend=lambda graph, inputs: lambda *given: [t * 2 for t in graph(*given)])
    x = picture()
    with torch.no_grad():
        right = inner(x)
        assert torch.equal(compiled(x), right * 2)
        [found] = TorchModel.of(nn.Sequential(compiled), tuple(x.shape), torch.float32).run(x.numpy()).values()
        assert np.array_equal(found, right.numpy())
        assert torch.equal(compiled(x), right * 2), "as it was"


@pytest.mark.parametrize(
    "does",
    [
        lambda m, x: m.conv(x)[:, 2:].as_strided((2, 5), (1, 7), 0),
        lambda m, x: m.conv(x)[:, ::2].as_strided((2, 5), (1, 7)),
    ],
)
def test_memory_around_a_view_is_out_of_reach(does: Any) -> None:
    with pytest.raises(GraphError, match=r"as_strided\S* may read more of memory than slice\S*, a view, has"):
        export(Does(does), picture())


def test_memory_of_a_whole_value_can_be_seen_otherwise() -> None:
    torch.manual_seed(0)
    module = Does(lambda m, x: m.conv(x).as_strided((2, 4, 5), (3, 7, 11)).sum(1)).eval()
    assert not wrong_cuts(module, picture())[0]


@pytest.mark.parametrize(
    "does",
    [
        lambda m, x: ((x > 0) & (x < 1), (x > 0) | (x < -1), (x > 0) ^ (x > 1)),
        lambda m, x: ((x * 10).long() >> 1, (x * 10).long() << 2, (x * 10).long() & 3),
    ],
)
def test_pythons_operators_for_bits(does: Any) -> None:
    wrong, exported = wrong_cuts(Does(does).eval(), picture())
    assert not wrong
    assert any("__" in node.op for node in exported.graph.nodes)
    assert not any(isinstance(a, Weight) for node in exported.graph.nodes for a in node.args)
