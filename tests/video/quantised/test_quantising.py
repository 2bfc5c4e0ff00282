"""Networks in integers: which layers are products, how near they are to floats, and that files are believed nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from cutset.errors import CheckpointError, CutsetError, GraphError
from cutset.kernels.reference_convolution import integer_convolution, quantize_map
from cutset.kernels.reference_linear import quantize_weight
from cutset.models.files.integer import most_bits
from cutset.partition.node import short_name
from cutset.video.check import Ranges
from cutset.video.onnx_model import OnnxModel
from cutset.video.quantised import calibration_inputs
from cutset.video.quantised.candidates import candidates
from cutset.video.quantised.integer_network import (
    IntegerNetwork,
    is_integer_network,
    product_number,
    read_network,
    write_network,
)
from cutset.video.quantised.integer_stage import IntegerModel, integers_of
from cutset.video.quantised.picture_products import LocalProducts
from cutset.video.quantised.quantising import quantise_network
from cutset.video.torch_model import TorchModel
from video.onnx_networks import Builder
from video.quantised.integer_networks import mixed, pictures
from video.quantised.test_zoo_private import in_every_mode


class TwinProducts:
    """By numpy alone."""

    def __init__(self, network: IntegerNetwork) -> None:
        self.network, self.numbers = network, list[int]()

    def multiply(self, number: int, q: Any, scale: float) -> Any:
        layer = self.network.layers[number]
        self.numbers.append(number)
        assert int(np.abs(q).max()) < 1 << (layer.bits - 1)
        sums = integer_convolution(q.reshape(1, -1), layer.weight, layer.shape).reshape(-1, layer.shape.outputs)
        return sums.astype(np.float32) * (np.float32(scale) * layer.scales)


@pytest.fixture(scope="module")
def floats() -> TorchModel:
    return mixed()


@pytest.fixture(scope="module")
def quantised(floats: TorchModel) -> IntegerNetwork:
    return quantise_network(floats, pictures(), "mixed", least=0)


def error(model: Any, network: IntegerNetwork, given: list[Any]) -> float:
    """Of the output's range over these pictures."""
    ranges, most = Ranges(), dict[str, float]()
    integers = IntegerModel(network, LocalProducts(network.layers))
    for picture in given:
        wanted, got = model.run(picture), integers.run(picture)
        ranges.add(wanted)
        most = {name: max(e, most.get(name, 0.0)) for name, e in ranges.errors(got, wanted).items()}
    return ranges.share(most)


def test_every_product_is_found_and_norms_are_folded(quantised: IntegerNetwork) -> None:
    names = [layer.name for layer in quantised.layers]
    assert names == ["first", "grouped", "deep", "wide", "point", "hidden", "head"]
    left = {short_name(node.op) for node in quantised.graph.nodes}
    assert not left & {"conv2d", "convolution", "linear"}
    norms = [node for node in quantised.graph.nodes if "batch_norm" in node.op]
    assert len(norms) == 1  # the one whose input is read by another layer too
    shapes = {layer.name: layer.shape for layer in quantised.layers}
    assert shapes["grouped"].groups == 2
    assert shapes["wide"].padding == (2, 2, 2, 2)
    assert (shapes["hidden"].rows, shapes["hidden"].columns, shapes["hidden"].channels) == (20, 1, 20)


def test_integers_are_near_floats_and_the_more_bits_the_nearer(floats: TorchModel, quantised: IntegerNetwork) -> None:
    model, others = floats, pictures(6, seed=9)
    eight = quantise_network(model, pictures(), bits=8, least=0)
    near, far = error(model, quantised, others), error(model, eight, others)
    assert 1e-6 < near < 0.02
    assert far > near
    assert {layer.bits for layer in eight.layers} == {8}
    assert {layer.bits for layer in quantised.layers} == {12}


def test_the_bits_are_those_of_numpy_products(quantised: IntegerNetwork) -> None:
    twin = TwinProducts(quantised)
    slow, fast = IntegerModel(quantised, twin), IntegerModel(quantised, LocalProducts(quantised.layers))
    for picture in (*pictures(2, seed=4), np.zeros((1, 3, 18, 22), np.uint8), np.full((1, 3, 18, 22), 255, np.uint8)):
        for name, value in slow.run(picture).items():
            np.testing.assert_array_equal(fast.run(picture)[name], value)
    assert twin.numbers == list(range(7)) * 4


def test_every_mode_gives_the_same_bits(floats: TorchModel, quantised: IntegerNetwork) -> None:
    in_every_mode(floats, quantised, pictures(2))


def test_layers_that_are_not_worth_it_stay_here(floats: TorchModel) -> None:
    model = floats
    shares = {one.name: one.share for one in candidates(model.graph, model.weights)}
    assert shares["deep"] < 5 < shares["wide"]
    network = quantise_network(model, pictures(1), least=6)
    assert "deep" not in [layer.name for layer in network.layers]
    assert any(node.name == "deep" and product_number(node.op) is None for node in network.graph.nodes)
    assert error(model, network, pictures(2)) < 0.02
    with pytest.raises(GraphError, match="worth sending"):
        quantise_network(model, pictures(1), least=1e9)


def test_what_is_beyond_what_was_seen_is_the_largest_and_nothing_leaves_its_bounds() -> None:
    x = torch.tensor([0.0, 1.0, -1.0, 1e30, -1e30, float("inf"), float("-inf"), float("nan"), 2.5e-3, 3.5e-3])
    q = integers_of(x, 1e-3, 8, map_=False)
    assert q.dtype == np.int16
    assert q.tolist()[:7] == [0, 127, -127, 127, -127, 127, -127]
    assert abs(int(q[7])) <= 127
    rng = np.random.default_rng(1)
    maps = rng.normal(0, 3, (5, 4, 6)).astype(np.float32)
    for scale in (0.01, 0.37, 1.0):
        np.testing.assert_array_equal(
            integers_of(torch.from_numpy(maps)[None], scale, 12), quantize_map(maps, scale, 12)
        )


def test_a_directory_gives_the_same_network(quantised: IntegerNetwork, tmp_path: Path) -> None:
    write_network(quantised, tmp_path / "net")
    assert is_integer_network(tmp_path / "net")
    assert not is_integer_network(tmp_path)
    assert sorted(path.suffix for path in (tmp_path / "net").iterdir()) == [".json", ".safetensors"]
    again = read_network(tmp_path / "net")
    assert again.graph == quantised.graph
    [picture] = pictures(1, seed=5)
    one, other = (IntegerModel(each, LocalProducts(each.layers)).run(picture) for each in (quantised, again))
    for name, value in one.items():
        np.testing.assert_array_equal(other[name], value)
    with pytest.raises(CutsetError, match="empty"):
        write_network(quantised, tmp_path / "net")


def _edit(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "network.json"
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return edit


def _layer(**values: Any) -> Callable[[Path], None]:
    return _edit(lambda document: document["layers"][0].update(values))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "no json": lambda folder: (folder / "network.json").write_text("{") and None,
    "not utf-8": lambda folder: (folder / "network.json").write_bytes(b'{"format": "\xff"}') and None,
    "deep": lambda folder: (folder / "network.json").write_text("[" * 100_000) and None,
    "another format": _edit(lambda document: document.update(format="cutset-pictures-9")),
    "more fields": _edit(lambda document: document.update(more=1)),
    "no graph": _edit(lambda document: document.update(graph=3)),
    "one layer less": _edit(lambda document: document["layers"].pop()),
    "layers in another order": _edit(lambda document: document["layers"].reverse()),
    "too many bits": _layer(bits=13),
    "too few bits": _layer(bits=7),
    "no scale": _layer(scale=0.0),
    "another window": _layer(kernel=[5, 3]),
    "another padding": _layer(padding=[0, 0, 0, 0]),
    "a huge map": _layer(rows=1 << 40),
    "groups that don't fit": _layer(groups=2),
    "a product twice": _edit(lambda document: document["graph"]["nodes"][4].update(op="cutset.product.0")),
    "an operator that is none": _edit(lambda document: document["graph"]["nodes"][0].update(op="os.system")),
    "no tensors": lambda folder: (folder / "model.safetensors").unlink(),
    "tensors cut off": lambda folder: (
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1]) and None
    ),
}


def opened(folder: Path) -> IntegerModel:
    """Operators are looked up when a network is to be run."""
    network = read_network(folder)
    return IntegerModel(network, LocalProducts(network.layers))


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_directory_is_one_clear_error(name: str, quantised: IntegerNetwork, tmp_path: Path) -> None:
    write_network(quantised, tmp_path / "net")
    DAMAGE[name](tmp_path / "net")
    with pytest.raises(CutsetError) as found:
        opened(tmp_path / "net")
    assert len(str(found.value)) < 600


def test_weights_whose_sums_leave_the_field_are_refused(tmp_path: Path, quantised: IntegerNetwork) -> None:
    """A file that says 12 bits where the weights allow fewer would make sums wrap."""
    layer = quantised.layers[3]
    shape = replace(layer.shape, kernel=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), rows=1, columns=1, channels=9000)
    heavy = np.full((shape.outputs, 9000), 127, np.int8)
    assert most_bits(heavy) == 10
    wrong = replace(layer, shape=shape, weight=heavy, bits=12)
    with pytest.raises(GraphError):
        IntegerNetwork("x", quantised.graph, [*quantised.layers[:3], wrong, *quantised.layers[4:]], {}, {})
    write_network(quantised, tmp_path / "net")
    _edit(lambda document: document["layers"][3].update(rows=1, columns=1, channels=9000, bits=12))(tmp_path / "net")
    with pytest.raises(CheckpointError):
        read_network(tmp_path / "net")


def onnx_network(tmp_path: Path) -> OnnxModel:
    """A convolution with uneven padding, a depthwise one, a product of rows, a product with a bias."""
    import onnx

    net = Builder()
    a = net.add("Conv", ["images", net.weight("w1", 10, 3, 3, 3), net.weight("b1", 10)], "c1", pads=[0, 1, 2, 1])
    a = net.add("Relu", [a], "r1")
    b = net.add("Conv", [a, net.weight("w2", 10, 1, 3, 3)], "c2", pads=[1] * 4, group=10)
    c = net.add("Conv", [b, net.weight("w3", 12, 10, 3, 3)], "c3", auto_pad="SAME_UPPER", strides=[2, 2])
    d = net.add("GlobalAveragePool", [net.add("Add", [c, c], "twice")], "pool")
    e = net.add("Flatten", [d], "flat")
    f = net.add("Gemm", [e, net.weight("w4", 12, 30), net.weight("b4", 30)], "gemm")
    net.add("MatMul", [net.add("Relu", [f], "r4"), net.weight("w5", 30, 5)], "logits")
    path = tmp_path / "net.onnx"
    onnx.save(net.model(["logits"]), path)
    return OnnxModel.of(path, (16, 24))


def test_an_onnx_file_becomes_one_too(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = onnx_network(tmp_path)
    network = quantise_network(model, pictures(2, size=(16, 24)), least=0)
    assert len(network.layers) == 5
    assert {node.op.split(".")[1] for node in network.graph.nodes} >= {"product", "Relu", "Add"}
    assert error(model, network, pictures(3, seed=1, size=(16, 24))) < 0.02
    write_network(network, tmp_path / "out")
    again = read_network(tmp_path / "out")
    [picture] = pictures(1, seed=2, size=(16, 24))
    twin = TwinProducts(network)
    one = IntegerModel(network, twin).run(picture)
    other = IntegerModel(again, LocalProducts(again.layers)).run(picture)
    for name, value in one.items():
        np.testing.assert_array_equal(other[name], value)


def test_no_pictures_or_wrong_bits_are_refused(floats: TorchModel) -> None:
    with pytest.raises(GraphError, match="no picture"):
        quantise_network(floats, [], least=0)
    with pytest.raises(GraphError, match="8 to 12 bits"):
        quantise_network(floats, pictures(1), bits=13)


def test_spreading_errors_beats_rounding_to_the_nearest(
    floats: TorchModel, quantised: IntegerNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration_inputs, "MOST_TERMS", 0)
    nearest = quantise_network(floats, pictures(), least=0)
    for one, other, candidate in zip(
        nearest.layers, quantised.layers, candidates(floats.graph, floats.weights), strict=True
    ):
        weight, scales = quantize_weight(candidate.weight)
        np.testing.assert_array_equal(one.weight, weight)
        np.testing.assert_array_equal(one.scales, scales)
        assert one.scale == other.scale
        assert int(np.abs(other.weight.astype(int)).max()) <= 127
    assert error(floats, quantised, pictures(6, seed=9)) < error(floats, nearest, pictures(6, seed=9))
