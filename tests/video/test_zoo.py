"""The zoo has torchvision's names, shapes and sizes, and computes the same."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn

from cutset.errors import CheckpointError, ModelError
from cutset.video.imports.export import export
from cutset.video.zoo import ZOO, build

Shapes = dict[str, tuple[int, ...]]
PARAMETERS = {
    "alexnet": 61_100_840,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "googlenet": 6_624_904,  # without auxiliary heads
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "mobilenet_v3_large": 5_483_032,
    "mobilenet_v3_small": 2_542_856,
    "efficientnet_b0": 5_288_548,
    "convnext_tiny": 28_589_128,
    "ssdlite320_mobilenet_v3_large": 3_440_060,
}
# Multiply-adds at 224 x 224, in 10^9: torchvision's table of its weights.
MULTIPLY_ADDS = {"alexnet": 0.71, "vgg16": 15.47, "vgg19": 19.63, "googlenet": 1.50, "resnet50": 4.09}
MULTIPLY_ADDS |= {"resnet18": 1.814, "resnet34": 3.664, "resnet101": 7.801, "mobilenet_v3_large": 0.217}
MULTIPLY_ADDS |= {"mobilenet_v3_small": 0.057, "efficientnet_b0": 0.386, "convnext_tiny": 4.456}
DETECTOR = "ssdlite320_mobilenet_v3_large"
HEADS = ("classifier.", "fc.", "head.")
# SHA-256 of the names and shapes of torchvision's own parameters and buffers, as `digest` makes it.
DIGESTS = {
    "resnet34": "380ae48636312fffee7b18fce915055226981b283e07a22e8dda21ab622897d9",
    "resnet101": "b33c27989125e6e930b2834938db755651bf544ce73d87d2c4ba6120767bf11f",
    "mobilenet_v3_large": "577f1e3486dab8d0e8e2af4d5edf0a8ddebac7b3867a13b94599c9165dbcafd4",
    "mobilenet_v3_small": "6d5f0784041d1bf02266e54b0002dd6200233c7ab86e96f6167b1f55b96540fb",
    "efficientnet_b0": "d9aac083b2e2d6db8811e8b5560e85d6e09d60ef89fcf09becbafd6f97d2ebf5",
    "convnext_tiny": "51f74de6d9c5500651273b1f1616dc4949e2fcefc499e143360c4c73464832a3",
    "ssdlite320_mobilenet_v3_large": "e6fc51b8397d86fd2f03f069f16f28765f3f8acbc7ab265bd1d5a73e35cec68f",
}


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


def resnet18() -> Shapes:
    shapes = dense("conv1", 64, 3, 7, bias=False) | norm("bn1", 64)
    inputs = 64
    for layer, width in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            name = f"layer{layer}.{block}"
            for part, depth in ((1, inputs), (2, width)):
                shapes |= dense(f"{name}.conv{part}", width, depth, 3, bias=False) | norm(f"{name}.bn{part}", width)
            if block == 0 and layer > 1:
                shapes |= dense(f"{name}.downsample.0", width, inputs, 1, bias=False)
                shapes |= norm(f"{name}.downsample.1", width)
            inputs = width
    return shapes | dense("fc", 1000, 512)


def quick(names: Iterable[str], *others: str) -> list[Any]:
    """The names; a larger network of a kind whose smaller one is among them is for the slow run."""
    large = ("resnet34", "resnet101", "mobilenet_v3_large", "efficientnet_b0", "convnext_tiny", DETECTOR)
    return [pytest.param(name, marks=pytest.mark.slow) if name in (*large, *others) else name for name in names]


def digest(shapes: Shapes) -> str:
    return hashlib.sha256(repr(sorted(shapes.items())).encode()).hexdigest()


def table(name: str) -> Shapes:
    if name == "vgg16":
        return vgg([0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28], [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6)
    if name == "vgg19":
        places = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]
        return vgg(places, [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8)
    kinds = {"alexnet": alexnet, "googlenet": googlenet, "resnet50": resnet50, "resnet18": resnet18}
    made: Shapes = kinds[name]() if name in kinds else shapes_of(build(name, shapes_only=True))
    return made


def shapes_of(module: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("name", ZOO)
def test_names_shapes_and_sizes_are_torchvisions(name: str) -> None:
    network = build(name, shapes_only=True)
    assert shapes_of(network) == table(name)
    assert digest(shapes_of(network)) == DIGESTS.get(name, digest(table(name)))
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]
    body = shapes_of(build(name, head=False, shapes_only=True))
    assert body == {n: s for n, s in table(name).items() if not n.startswith(HEADS)}


@pytest.mark.parametrize("name", quick(MULTIPLY_ADDS, "mobilenet_v3_small"))
def test_graphs_have_the_known_costs_and_shapes(name: str) -> None:
    pictures = torch.empty(1, 3, 224, 224, dtype=torch.uint8, device="meta")
    graph, tensors = export(build(name, shapes_only=True), pictures)
    # Where layers are narrow, what is done to each element counts, too, which that table leaves out.
    assert graph.flops / 2e9 == pytest.approx(MULTIPLY_ADDS[name], rel=0.13 if "net_" in name else 0.02)
    assert graph.values[graph.outputs[0]].shape == (1, 1000)
    assert graph.inputs[0].dtype == "uint8"
    assert set(tensors) == {"pictures.mean", "pictures.deviation"} | {
        n for n in table(name) if not n.endswith("num_batches_tracked")
    }
    features = build(name, head=False, shapes_only=True)(pictures)
    depth = {"alexnet": (256, 6), "vgg16": (512, 7), "vgg19": (512, 7), "googlenet": (1024, 7), "resnet50": (2048, 7)}
    depth |= {"resnet18": (512, 7), "resnet34": (512, 7), "resnet101": (2048, 7), "mobilenet_v3_large": (960, 7)}
    depth |= {"mobilenet_v3_small": (576, 7), "efficientnet_b0": (1280, 7), "convnext_tiny": (768, 7)}
    channels, size = depth[name]
    assert features.shape == (1, channels, size, size)


@pytest.mark.slow
def test_a_detector_has_logits_and_offsets_of_its_anchors() -> None:
    pictures = torch.empty(1, 3, 320, 320, dtype=torch.uint8, device="meta")
    graph, _ = export(build(DETECTOR, shapes_only=True), pictures)
    assert [graph.values[name].shape for name in graph.outputs] == [(1, 3234, 91), (1, 3234, 4)]
    maps = build(DETECTOR, head=False, shapes_only=True)(pictures)
    assert [tuple(one.shape[1:]) for one in maps] == [
        *((672, 20, 20), (480, 10, 10), (512, 5, 5)),
        *((256, 3, 3), (256, 2, 2), (128, 1, 1)),
    ]


@pytest.mark.parametrize(
    "name", quick(["mobilenet_v3_large", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny"])
)
def test_files_with_timms_names_load(name: str, tmp_path: Path) -> None:
    network = build(name, seed=5)
    pairs = dict(network.timm_names())
    state = network.state_dict()
    assert set(pairs.values()) == set(state)
    flat = {theirs: state[ours] for theirs, ours in pairs.items()}
    flat = {n: t[:, :, None, None] if n == "conv_head.weight" and t.dim() == 2 else t for n, t in flat.items()}
    flat = {n: t.reshape(-1).clone() if n.endswith("gamma") else t for n, t in flat.items()}
    torch.save(flat, tmp_path / "timm.pth")
    loaded = build(name, weights=tmp_path / "timm.pth")
    assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.state_dict().items())
    epsilons = {part.eps for part in loaded.modules() if isinstance(part, nn.BatchNorm2d)}
    assert epsilons in ({1e-5}, set())
    without = build(name, head=False, weights=tmp_path / "timm.pth").state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in without.items())
    torch.save({n: t for n, t in flat.items() if n != next(iter(pairs))}, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match="is missing"):
        build(name, weights=tmp_path / "less.pth")


@pytest.mark.parametrize("name", quick(ZOO))
def test_random_activations_neither_vanish_nor_explode(name: str) -> None:
    network = build(name, head=not name.startswith(("alexnet", "vgg")))
    spreads: dict[str, float] = {}
    inner = re.compile(r"fc1|fc2|activation|avgpool")  # of squeeze and excitation: means of many, nearly equal
    for path, part in network.named_modules():
        if not list(part.children()):
            part.register_forward_hook(lambda _, __, out, path=path: spreads.update({path: spread(out)}))
    pictures = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        made = network(pictures)
    result = made[0] if isinstance(made, tuple) else made
    spreads = {path: value for path, value in spreads.items() if not inner.search(path)}
    assert len(spreads) > 10
    assert min(spreads.values()) > 0.05
    assert max(spreads.values()) < 20
    assert result.unique().numel() > result.numel() / 4


def spread(out: Any) -> float:
    return float(out.std()) if out.numel() > 1 else 1.0


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


@pytest.mark.parametrize("name", [name for name in ZOO if not name.startswith(("alexnet", "vgg", "ssd"))])
def test_torchvision_computes_the_same(name: str) -> None:
    models = oracle()
    theirs = getattr(models, name)(
        weights=None, **({"aux_logits": False, "init_weights": False} if name == "googlenet" else {})
    )
    ours = build(name, seed=4)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(theirs.eval()(x), ours(x))


@pytest.mark.parametrize("name", ZOO)
def test_torchvision_has_the_same_names(name: str) -> None:
    with torch.device("meta"):
        if name == DETECTOR:
            theirs = oracle().detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
        else:
            theirs = getattr(oracle(), name)(weights=None, **({"init_weights": False} if name == "googlenet" else {}))
    shapes = {n: s for n, s in shapes_of(theirs).items() if not n.startswith("aux")}
    assert shapes == shapes_of(build(name, shapes_only=True))
