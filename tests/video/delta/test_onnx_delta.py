"""Delta compute of ONNX networks: against onnxruntime, against itself with everything changed, and which is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from benchmarks.onnx_files import exported
from cutset import Stream
from cutset.video.check import range_error
from cutset.video.delta.compiling import DenseLayer
from cutset.video.delta.delta_stage import DeltaStage
from cutset.video.delta.measuring import measure_dirty
from cutset.video.delta.program import Program
from cutset.video.onnx_model import OnnxModel
from cutset.video.runtimes import open_stage
from video.delta.onnx_parts import PARTS
from video.delta.test_delta_stage import pictures
from video.exported import page
from video.onnx_networks import Builder, detector, quantised, save


def stage_of(model: OnnxModel, nodes: Any = None, **more: Any) -> DeltaStage:
    nodes = range(len(model.graph.nodes)) if nodes is None else nodes
    return DeltaStage(model.graph, nodes, model.weights, open_stage(model.graph, nodes, model.weights), **more)


def whole_operators(program: Program) -> set[str]:
    nodes = [i for layer in program.compiled.layers if isinstance(layer, DenseLayer) for i in layer.nodes]
    return {program.graph.nodes[i].op.split(".")[1] for i in nodes}


def holds(model: OnnxModel, few: list[Any], *, tolerance: float = 1e-4) -> DeltaStage:
    """Thresholds of 0 give the bits of a stage to which everything is new, near those of onnxruntime."""
    delta = stage_of(model, always=True)
    name = model.graph.inputs[0].name
    for k, picture in enumerate(few):
        found = delta.run(0, {name: picture})
        fresh = stage_of(model, always=True, threads=3).run(0, {name: picture}) if k in (1, len(few) - 1) else found
        assert all(found[one].tobytes() == fresh[one].tobytes() for one in model.graph.outputs)
        wanted = model.run(picture)
        assert range_error(found, wanted) <= tolerance
        assert any(np.ptp(array) > 0.01 for array in wanted.values()), "constants would prove nothing"
        assert (delta.share == 1.0) == (k == 0) or not delta.program.sparse_flops
    return delta


@pytest.mark.parametrize("name", PARTS)
def test_parts(name: str, tmp_path: Path) -> None:
    make, whole = PARTS[name]
    model = OnnxModel.of(save(make(), tmp_path / "net.onnx"))
    delta = holds(model, pictures(4, 15, 18), tolerance=2e-3 if name == "half" else 1e-4)
    assert whole_operators(delta.program) == whole


def test_a_detector_and_a_quantised_network(tmp_path: Path) -> None:
    model = OnnxModel.of(save(detector(), tmp_path / "net.onnx"))
    assert whole_operators(holds(model, pictures(4, 16, 24)).program) == {"Reshape", "Flatten", "Softmax"}
    model = OnnxModel.of(save(quantised(), tmp_path / "net.onnx"))
    # Codes of activations may round the other way where a sum has another order.
    delta = holds(model, pictures(4, 16, 24), tolerance=0.05)
    assert whole_operators(delta.program) == {"QuantizeLinear", "DequantizeLinear"}


@pytest.mark.parametrize("pixels", ["unit", "signed", "imagenet", "bytes"])
@pytest.mark.parametrize("bgr", [False, True])
def test_pictures_of_bytes_in_every_scale(pixels: str, bgr: bool, tmp_path: Path) -> None:
    path = save(PARTS["channels"][0](), tmp_path / "net.onnx")
    model = OnnxModel.of(path, pixels=pixels, bgr=bgr)
    assert not whole_operators(holds(model, pictures(3, 15, 18)).program)


def test_channels_last(tmp_path: Path) -> None:
    net = Builder()
    x = net.add("Transpose", ["images"], "first", perm=[0, 3, 1, 2])
    net.add("Conv", [x, net.weight("w", 4, 3, 3, 3)], "out")
    model = OnnxModel.of(save(net.model(["out"], (1, 15, 18, 3)), tmp_path / "net.onnx"))
    holds(model, pictures(3, 15, 18))


def test_every_cut_gives_what_the_stages_before_it_gave(tmp_path: Path) -> None:
    """Also where an activation of several nodes, or a picture in another order, is cut through."""
    for name in ("activations", "channels", "transposed"):
        model = OnnxModel.of(save(PARTS[name][0](), tmp_path / "net.onnx"), bgr=True)
        graph, few = model.graph, pictures(2, 15, 18)
        for cut in range(1, len(graph.nodes), 3):
            stages = [stage_of(model, part, always=True) for part in (range(cut), range(cut, len(graph.nodes)))]
            for picture in few:
                values = {graph.inputs[0].name: picture}
                for one in stages:
                    values |= one.run(0, values)
            assert range_error({n: values[n] for n in graph.outputs}, model.run(few[-1])) <= 1e-4


def test_a_stream_of_an_onnx_file(tmp_path: Path) -> None:
    path = save(PARTS["pools"][0](), tmp_path / "net.onnx")
    few = pictures(12, 15, 18)
    with Stream(str(path), few, workers=2, delta_compute=True, scheduler="even") as stream:
        found = [result.outputs for result in stream]
    model = OnnxModel.of(path)
    assert len(found) == len(few)
    assert all(range_error(one, model.run(picture)) <= 0.03 for one, picture in zip(found, few, strict=True))


def test_what_is_dirty_of_an_onnx_file(tmp_path: Path) -> None:
    model = OnnxModel.of(save(detector(), tmp_path / "net.onnx"))
    changes = measure_dirty(model.graph, model.tensors, pictures(4, 16, 24), scale=0.0)
    first, last = (changes.changed[name].mean() for name in (model.graph.inputs[0].name, "boxes"))
    assert 0 < first < last == 1


def flickering(first: Any, count: int) -> list[Any]:
    """The picture, and others in which a corner of it changes."""
    rng, found = np.random.default_rng(0), [first]
    for _ in range(count - 1):
        after = found[-1].copy()
        after[..., 20:30, 30:44] = rng.integers(0, 256, (1, 3, 10, 14), np.uint8)
        found.append(after)
    return found


@pytest.mark.slow
def test_trained_detectors(yolo: Path, text_detector: Path) -> None:
    """All of a YOLOv8n's and of PP-OCR's layers that are convolutions, and what is between them, is by positions."""
    few = flickering(page(96, 128), 3)
    delta = holds(OnnxModel.of(yolo, (96, 128)), few)
    assert delta.program.sparse_flops > 0.98 * delta.program.graph.flops
    assert whole_operators(delta.program) <= {
        *("Reshape", "Concat", "Split", "Sigmoid", "Transpose", "Softmax", "Conv", "Slice", "Sub", "Add", "Div", "Mul")
    }
    delta = holds(OnnxModel.of(text_detector, (96, 128), pixels="imagenet"), few)
    assert not whole_operators(delta.program)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["vgg16", "resnet50", "mobilenet_v3_large", "efficientnet_b0", "convnext_tiny"])
def test_exported_networks(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    model = OnnxModel.of(exported(name, tmp_path), (64, 64), "float32")
    few = [picture.astype(np.float32) / 255 for picture in flickering(page(64, 64), 3)]
    delta = holds(model, few)
    least = 0.5 if name == "convnext_tiny" else 0.95  # whose products are over the last of four dimensions
    assert delta.program.sparse_flops > least * model.graph.flops
