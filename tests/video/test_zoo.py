"""The zoo has torchvision's names, shapes and sizes, and computes the same."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn

from cutset.errors import ModelError
from cutset.video.imports.export import export
from cutset.video.zoo import ZOO, build

Shapes = dict[str, tuple[int, ...]]
PARAMETERS = {
    "alexnet": 61_100_840,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "googlenet": 6_624_904,  # without auxiliary heads
    "resnet50": 25_557_032,
}
# Multiply-adds at 224 x 224, in 10^9: torchvision's table of its weights.
MULTIPLY_ADDS = {"alexnet": 0.71, "vgg16": 15.47, "vgg19": 19.63, "googlenet": 1.50, "resnet50": 4.09}


def dense(name: str, outputs: int, inputs: int, kernel: int = 0, bias: bool = True) -> Shapes:
    weight = (outputs, inputs, kernel, kernel) if kernel else (outputs, inputs)
    return {f"{name}.weight": weight} | ({f"{name}.bias": (outputs,)} if bias else {})


def norm(name: str, width: int) -> Shapes:
    shapes: Shapes = {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {f"{name}.num_batches_tracked": ()}


def alexnet() -> Shapes:
    shapes: Shapes = {}
    for at, outputs, inputs, kernel in ((0, 64, 3, 11), (3, 192, 64, 5), (6, 384, 192, 3), (8, 256, 384, 3)):
        shapes |= dense(f"features.{at}", outputs, inputs, kernel)
    shapes |= dense("features.10", 256, 256, 3)
    return (
        shapes
        | dense("classifier.1", 4096, 9216)
        | dense("classifier.4", 4096, 4096)
        | dense("classifier.6", 1000, 4096)
    )


def vgg(places: list[int], widths: list[int]) -> Shapes:
    shapes: Shapes = {}
    for at, outputs, inputs in zip(places, widths, [3, *widths], strict=False):
        shapes |= dense(f"features.{at}", outputs, inputs, 3)
    return (
        shapes
        | dense("classifier.0", 4096, 25088)
        | dense("classifier.3", 4096, 4096)
        | dense("classifier.6", 1000, 4096)
    )


def googlenet() -> Shapes:
    shapes: Shapes = {}

    def unit(name: str, outputs: int, inputs: int, kernel: int) -> None:
        shapes.update(dense(f"{name}.conv", outputs, inputs, kernel, bias=False) | norm(f"{name}.bn", outputs))

    unit("conv1", 64, 3, 7)
    unit("conv2", 64, 64, 1)
    unit("conv3", 192, 64, 3)
    for name, inputs, a, b0, b1, c0, c1, d in (
        ("3a", 192, 64, 96, 128, 16, 32, 32),
        ("3b", 256, 128, 128, 192, 32, 96, 64),
        ("4a", 480, 192, 96, 208, 16, 48, 64),
        ("4b", 512, 160, 112, 224, 24, 64, 64),
        ("4c", 512, 128, 128, 256, 24, 64, 64),
        ("4d", 512, 112, 144, 288, 32, 64, 64),
        ("4e", 528, 256, 160, 320, 32, 128, 128),
        ("5a", 832, 256, 160, 320, 32, 128, 128),
        ("5b", 832, 384, 192, 384, 48, 128, 128),
    ):
        block = f"inception{name}"
        unit(f"{block}.branch1", a, inputs, 1)
        unit(f"{block}.branch2.0", b0, inputs, 1)
        unit(f"{block}.branch2.1", b1, b0, 3)
        unit(f"{block}.branch3.0", c0, inputs, 1)
        unit(f"{block}.branch3.1", c1, c0, 3)
        unit(f"{block}.branch4.1", d, inputs, 1)
    return shapes | dense("fc", 1000, 1024)


def resnet50() -> Shapes:
    shapes = dense("conv1", 64, 3, 7, bias=False) | norm("bn1", 64)
    inputs = 64
    for layer, (width, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
        for block in range(count):
            name = f"layer{layer}.{block}"
            for part, (outputs, depth, kernel) in enumerate(
                ((width, inputs, 1), (width, width, 3), (4 * width, width, 1)), 1
            ):
                shapes |= dense(f"{name}.conv{part}", outputs, depth, kernel, bias=False)
                shapes |= norm(f"{name}.bn{part}", outputs)
            if block == 0:
                shapes |= dense(f"{name}.downsample.0", 4 * width, inputs, 1, bias=False)
                shapes |= norm(f"{name}.downsample.1", 4 * width)
            inputs = 4 * width
    return shapes | dense("fc", 1000, 2048)


def table(name: str) -> Shapes:
    if name == "vgg16":
        return vgg([0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28], [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6)
    if name == "vgg19":
        places = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]
        return vgg(places, [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8)
    made: Shapes = {"alexnet": alexnet, "googlenet": googlenet, "resnet50": resnet50}[name]()
    return made


def shapes_of(module: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("name", ZOO)
def test_names_shapes_and_sizes_are_torchvisions(name: str) -> None:
    network = build(name, shapes_only=True)
    assert shapes_of(network) == table(name)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]
    body = shapes_of(build(name, head=False, shapes_only=True))
    assert body == {n: s for n, s in table(name).items() if not n.startswith(("classifier.", "fc."))}


@pytest.mark.parametrize("name", ZOO)
def test_graphs_have_the_known_costs_and_shapes(name: str) -> None:
    pictures = torch.empty(1, 3, 224, 224, dtype=torch.uint8, device="meta")
    graph, tensors = export(build(name, shapes_only=True), pictures)
    assert graph.flops / 2e9 == pytest.approx(MULTIPLY_ADDS[name], rel=0.02)
    assert graph.values[graph.outputs[0]].shape == (1, 1000)
    assert graph.inputs[0].dtype == "uint8"
    assert set(tensors) == {"pictures.mean", "pictures.deviation"} | {
        n for n in table(name) if not n.endswith("num_batches_tracked")
    }
    features = build(name, head=False, shapes_only=True)(pictures)
    depth = {"alexnet": (256, 6), "vgg16": (512, 7), "vgg19": (512, 7), "googlenet": (1024, 7), "resnet50": (2048, 7)}
    channels, size = depth[name]
    assert features.shape == (1, channels, size, size)


@pytest.mark.parametrize("name", ZOO)
def test_random_activations_neither_vanish_nor_explode(name: str) -> None:
    network = build(name, head=name in ("googlenet", "resnet50"))
    spreads: dict[str, float] = {}
    for path, part in network.named_modules():
        if not list(part.children()):
            part.register_forward_hook(lambda _, __, out, path=path: spreads.update({path: float(out.std())}))
    pictures = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        result = network(pictures)
    assert len(spreads) > 10
    assert min(spreads.values()) > 0.05
    assert max(spreads.values()) < 20
    assert result.unique().numel() > result.numel() / 4


def test_pictures_are_normalised_and_floats_pass() -> None:
    network = build("alexnet", head=False)
    pictures = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (pictures / 255 - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(network(pictures), network(normalised), rtol=1e-4, atol=1e-4)


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(ModelError, match="the zoo has no 'vgg61'"):
        build("vgg61")


def oracle() -> Any:
    """torchvision's models where it is installed. Its CUDA build lacks two operators beside a torch without CUDA."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision isn't installed")
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        oracle.library = library  # lives as long as its operators
        return importlib.import_module("torchvision.models")


@pytest.mark.parametrize("name", ["googlenet", "resnet50"])
def test_torchvision_computes_the_same(name: str) -> None:
    models = oracle()
    theirs = getattr(models, name)(
        weights=None, **({"aux_logits": False, "init_weights": False} if "g" in name else {})
    )
    ours = build(name, seed=4)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(theirs.eval()(x), ours(x))


@pytest.mark.parametrize("name", ZOO)
def test_torchvision_has_the_same_names(name: str) -> None:
    with torch.device("meta"):
        theirs = getattr(oracle(), name)(weights=None, **({"init_weights": False} if name == "googlenet" else {}))
    shapes = {n: s for n, s in shapes_of(theirs).items() if not n.startswith("aux")}
    assert shapes == shapes_of(build(name, shapes_only=True))
