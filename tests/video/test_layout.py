"""However a network is cut, and however values lie in memory there, its results have the bits of the module itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn
from torch.nn import functional

from cutset.errors import GraphError
from cutset.partition.description import describe, read_description
from cutset.partition.node import Value, strides_of
from cutset.video.imports.export import Exported, export
from cutset.video.imports.trial import same_bits
from cutset.video.stage import TorchStage, lay, layout_of
from cutset.video.zoo import build
from video.networks import filled


def rows(tensor: Tensor) -> Tensor:
    """As after a link, which carries rows."""
    return tensor.clone(memory_format=torch.contiguous_format)


def wrong_cuts(module: nn.Module, *inputs: Tensor) -> tuple[list[int], Exported]:
    """The cuts behind which the second stage gives other bits than the module, of all."""
    exported = export(module, *inputs)
    graph, tensors = exported
    with torch.no_grad():
        right = [t for t in torch.utils._pytree.tree_leaves(module(*inputs)) if isinstance(t, Tensor)]
    before = {value.name: rows(x) for value, x in zip(graph.inputs, inputs, strict=True)}
    wrong, count = [], len(graph.nodes)
    for k in range(count + 1):
        begun = TorchStage(graph, range(k), tensors).forward(before)
        crossing = {name: rows(begun[name] if name in begun else before[name]) for name in graph.cuts[k].values}
        ended = TorchStage(graph, range(k, count), tensors).forward(crossing)
        found = [ended[name] if name in ended else crossing[name] for name in graph.outputs]
        if not same_bits(found, right):
            wrong.append(k)
    return wrong, exported


class Does(nn.Module):
    """A function of a picture and of the layers here."""

    def __init__(self, does: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.does = does
        self.conv, self.norm, self.linear = nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Any:
        return self.does(self, x)


def written_through_views(m: Any, x: Tensor) -> Any:
    y = m.conv(x)
    y[:, ::2].mul_(3).relu_()
    y[:, :, 3:5] = 0.5
    z = y.transpose(1, 2)
    z.add_(1)
    return y.sum((2, 3)), z.sum(3)


def heads(m: Any, x: Tensor) -> Tensor:
    y = m.linear(m.conv(x).permute(0, 2, 3, 1)).reshape(2, -1, 2, 3).transpose(1, 2)
    return functional.scaled_dot_product_attention(y, y, y).transpose(1, 2).reshape(2, -1, 6).mean(1)


WAYS: dict[str, Callable[[Any, Tensor], Any]] = {
    "the slice of the issue": lambda m, x: (x * 1.5)[:, ::4, ::2, ::3].sum((2, 3)),
    "a slice of the picture": lambda m, x: x[:, ::4, ::2, ::3].sum((2, 3)),
    "a slice that begins later": lambda m, x: (x * 2)[:, 1::3, 3:, 5:].mean((1, 3)),
    "one element for many": lambda m, x: (x * 2).mean((2, 3), keepdim=True).expand(2, 8, 17, 19).sum((1, 2)),
    "one channel for many": lambda m, x: (x[:, :1] * 2).expand(2, 8, 17, 19).softmax(1).sum(2),
    "one picture for many, and a convolution": lambda m, x: m.conv((x[:1] * 2).expand(2, 8, 17, 19)).sum((1, 2)),
    "a transposed convolution's result": lambda m, x: m.conv(x).transpose(1, 3).sum(1),
    "channels last for a matrix": lambda m, x: m.linear(m.conv(x).permute(0, 2, 3, 1)).mean((1, 2)),
    "windows that overlap": lambda m, x: (x * 2).unfold(2, 5, 2).unfold(3, 3, 1).sum((4, 5)).mean(1),
    "parts": lambda m, x: [part.sum((1, 2)) for part in m.conv(x).chunk(3, 1)],
    "a diagonal": lambda m, x: (x @ x.transpose(2, 3)).diagonal(dim1=2, dim2=3).sum(2),
    "a convolution of a slice": lambda m, x: m.conv(x[:, :, ::2, 1::2]).sum((2, 3)),
    "channels last inside": lambda m, x: m.norm(m.conv(x.to(memory_format=torch.channels_last))).sum((2, 3)),
    "rows again": lambda m, x: m.conv(x.transpose(2, 3)).contiguous().view(2, -1).softmax(1),
    "heads": heads,
    "writes through views": written_through_views,
    "other dtypes": lambda m, x: [
        m.conv(x).to(kind).transpose(1, 2)[:, 1:].sum(3) for kind in (torch.bfloat16, torch.float16, torch.float64)
    ],
    "views of one result": lambda m, x: (lambda y: (y, y[0], y.transpose(1, 2), y[:, 2:]))(m.conv(x)),
}


def examples() -> dict[str, Tensor]:
    def drawn(*shape: int) -> Tensor:
        return torch.rand(shape, generator=torch.Generator().manual_seed(3))

    plain = drawn(2, 8, 17, 19)
    return {
        "rows": plain,
        "channels last": plain.to(memory_format=torch.channels_last),
        "transposed": plain.transpose(2, 3).contiguous().transpose(2, 3),
        "with gaps": drawn(2, 16, 34, 40)[:, ::2, ::2, 1:20],
        "repeated": drawn(2, 1, 17, 1).expand(2, 8, 17, 19),
    }


@pytest.mark.parametrize("way", WAYS)
def test_every_cut_has_the_modules_bits(way: str) -> None:
    module, others = filled(Does(WAYS[way])), examples()
    one = list(others)[1 + list(WAYS).index(way) % 4]
    for name, x in (("rows", others["rows"]), (one, others[one])):
        wrong, exported = wrong_cuts(module, x)
        assert not wrong, f"{name}: {wrong} of {len(exported.graph.nodes)}"


def test_what_was_reported_lies_in_memory_as_in_the_module() -> None:
    graph, _ = export(filled(Does(WAYS["the slice of the issue"])), torch.rand(2, 16, 37, 41))
    sliced = [value for value in graph.values.values() if value.shape == (2, 4, 19, 14)]
    assert sliced
    assert sliced[-1].strides == (16 * 37 * 41, 4 * 37 * 41, 2 * 41, 3)
    again = read_description(json.loads(json.dumps(describe(graph), allow_nan=False)))
    assert again == graph


class CrossCovariance(nn.Module):
    """A block of XCiT: attention between channels, then convolutions of tokens that lie as channels last."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.temperature, self.gamma = nn.Parameter(torch.ones(heads, 1, 1)), nn.Parameter(torch.ones(width))
        self.first = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(self.norms[0](x)).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 4, 1)
        q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
        attention = ((q @ k.transpose(-2, -1)) * self.temperature).softmax(-1)
        x = x + self.gamma * self.project((attention @ v).permute(0, 3, 1, 2).reshape(b, n, c))
        y = self.norms[1](x).permute(0, 2, 1).reshape(b, c, height, width)
        y = self.second(self.norm(functional.gelu(self.first(y)))).reshape(b, c, n).permute(0, 2, 1)
        x = x + self.gamma * y
        result: Tensor = x + self.gamma * self.mlp(self.norms[2](x))
        return result


class Xcit(nn.Module):
    """The stem, some blocks, a head; positions are made of sines in `forward`."""

    def __init__(self, width: int = 48, blocks: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width // 2, 3, 2, 1),
            nn.BatchNorm2d(width // 2),
            nn.GELU(),
            nn.Conv2d(width // 2, width, 3, 2, 1),
        )
        self.positions = nn.Conv2d(16, width, 1)
        self.blocks = nn.ModuleList(CrossCovariance(width, 4) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, c, height, width = x.shape
        places = torch.arange(1, height + 1, dtype=torch.float32)[:, None].expand(height, width) / height
        waves = places[..., None] / 100 ** (torch.arange(16) / 16)
        waves = torch.stack([waves[..., ::2].sin(), waves[..., 1::2].cos()], 3).flatten(2)
        there = self.positions(waves.permute(2, 0, 1)[None].repeat(b, 1, 1, 1)).reshape(b, c, -1).permute(0, 2, 1)
        x = x.reshape(b, c, height * width).permute(0, 2, 1) + there
        for block in self.blocks:
            x = block(x, height, width)
        result: Tensor = self.head(self.norm(x).mean(1))
        return result


class Segformer(nn.Module):
    """The logits of transformers' network, small and with random weights."""

    def __init__(self) -> None:
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        super().__init__()
        self.inner = SegformerForSemanticSegmentation(
            SegformerConfig(
                num_encoder_blocks=2,
                depths=[1, 1],
                hidden_sizes=[16, 40],
                num_attention_heads=[1, 4],
                sr_ratios=[8, 2],
                patch_sizes=[7, 3],
                strides=[4, 2],
                mlp_ratios=[4, 4],
                decoder_hidden_size=32,
                num_labels=5,
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x).logits
        return logits


@pytest.mark.parametrize("network", [Xcit, Segformer])
def test_networks_whose_exported_order_is_not_the_real_one(network: type[nn.Module]) -> None:
    """A view of one picture has other strides in the exporter, and so have convolutions after it."""
    torch.manual_seed(0)
    module = network().eval()
    wrong, exported = wrong_cuts(module, torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1)))
    assert not wrong
    assert len(exported.graph.nodes) > 50


@pytest.mark.parametrize(
    "name", ["alexnet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vgg16", "googlenet", "resnet50"))]
)
def test_the_zoo_lies_as_the_exporter_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It isn't tried when it is exported, which would take a camera's computer long."""
    module, x = build(name), torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    said = export(module, x).graph
    monkeypatch.setattr(type(module), "PURE", False)
    assert export(module, x).graph == said


def test_a_network_of_the_zoo_in_another_order_is_tried() -> None:
    module = build("alexnet", head=False).to(memory_format=torch.channels_last)
    x = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    assert not wrong_cuts(module, x)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.int64, torch.bfloat16])
def test_any_place_in_memory_is_made_again(dtype: torch.dtype) -> None:
    base = (torch.rand(6, 5, 8, 9, generator=torch.Generator().manual_seed(0)) * 9).to(dtype)
    for there in (
        base,
        base[1:],
        base[:, 1:4, ::3, 2:],
        base.permute(3, 1, 0, 2),
        base[:1].expand(7, 5, 8, 9),
        base[0, 0, 0, 0].expand(3, 4),
        base.unfold(2, 5, 1),
        base[:, :0],
        base[0, 0, 0, 3],
        base.flatten()[7:],
    ):
        name = str(dtype).removeprefix("torch.")
        value = Value("v", tuple(there.shape), name, *layout_of(there))
        made = lay(rows(there), value)
        assert torch.equal(made, there)
        assert layout_of(made) == layout_of(there)
        assert made.untyped_storage().nbytes() == value.room * there.itemsize
        assert made.data_ptr() % 64 == (there.storage_offset() * there.itemsize % 64 if there.numel() else 0)
        assert lay(made, value) is made, "nothing to do"


def test_a_layout_that_can_not_be_is_refused() -> None:
    table = describe(export(nn.ReLU(), torch.zeros(1, 3, 8, 8)).graph)

    def described(shape: list[int], layout: Any) -> dict[str, Any]:
        return table | {"inputs": [["input", "float32", shape, layout]]}

    shape = [1, 3, 8, 8]
    good = {"strides": [9000, 300, 30, 3], "offset": 5}
    assert read_description(described(shape, good)).inputs[0].strides == (9000, 300, 30, 3)
    assert read_description(described(shape, [0, 2, 3, 1])).inputs[0].strides == (192, 1, 24, 3)
    for wrong in (
        {"strides": [1, 1, 1]},
        {"strides": [1, 1, 1, 1]},
        {"strides": [1, 1, 1, 1], "offset": 16},
        {"strides": [1, 1, 1, -1], "offset": 0},
        {"strides": [1, 1, 1, 1 << 50], "offset": 0},
        {"strides": "1111", "offset": 0},
        {"strides": None, "offset": 0},
        3,
        "order",
    ):
        with pytest.raises(GraphError):
            read_description(described(shape, wrong))


def test_strides_of_orders() -> None:
    for shape in ((2, 3, 4, 5), (1, 3, 1, 5), (4,), (), (2, 0, 3)):
        assert strides_of(shape) == torch.empty(shape).stride()
    assert (
        strides_of((2, 3, 4, 5), (0, 2, 3, 1)) == torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last).stride()
    )
