"""ONNX files become graphs: onnxruntime's numbers, the same bits however they are cut; and what is refused."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper

from cutset.cli import main
from cutset.errors import CutsetError, GraphError
from cutset.partition.description import describe, read_description
from cutset.partition.graph import Graph
from cutset.video.check import range_error
from cutset.video.imports.onnx_file import read_onnx
from cutset.video.onnx_model import OnnxModel
from cutset.video.privacy import picture_like
from cutset.video.runtimes import open_stage
from mutations import mutations
from video.onnx_networks import Builder, detector, picture, quantised, save, session

Arrays = dict[str, Any]


def run_cut(model: OnnxModel, bounds: list[int], pixels: Any, runtime: str = "") -> Arrays:
    """The outputs of stages between these numbers of nodes, each with what crosses its cut alone."""
    graph, held = model.graph, {model.graph.inputs[0].name: pixels}
    for first, last in itertools.pairwise(bounds):
        made = open_stage(graph, range(first, last), model.weights, runtime).run(0, held)
        held = {name: made.get(name, held.get(name)) for name in graph.cut(last).values}
    return {name: held[name] for name in graph.outputs}


def bits(found: Arrays) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in found.items()}


NETWORKS = {f"opset {opset}": lambda opset=opset: detector(opset) for opset in (11, 13, 17, 20, 22)} | {
    "float16": lambda: detector(dtype="float16"),
    "quantised": quantised,
    "quantised, opset 21": lambda: quantised(21),
    "any size": lambda: detector(shape=("n", 3, "h", "w")),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_as_onnxruntime_and_cut_as_whole(name: str, tmp_path: Path) -> None:
    proto = NETWORKS[name]() if name != "opset 11" else _old()
    path = save(proto, tmp_path / "net.onnx")
    model = OnnxModel.of(path, (16, 24))
    pixels, half = picture(), name == "float16"
    scaled = (pixels.astype(np.float32) / np.float32(255)).astype(np.float16 if half else np.float32)
    wanted, found = session(proto)(scaled), model.run(pixels)
    assert list(found) == list(wanted)
    assert range_error(found, wanted) <= (5e-3 if half else 1e-4)
    assert all(np.ptp(array) > 0 for array in found.values())
    count = len(model.graph.nodes)
    assert not any("Shape" in node.op or "Gather" in node.op or "Unsqueeze" in node.op for node in model.graph.nodes)
    for k in range(1, count):
        assert bits(run_cut(model, [0, k, count], pixels)) == bits(found), f"cut after {k} of {count}"
    assert bits(run_cut(model, [0, count // 3, 2 * count // 3, count], pixels)) == bits(found)
    again = read_description(json.loads(json.dumps(describe(model.graph), allow_nan=False)))
    assert again == model.graph


def _old() -> Any:
    """What PP-OCR's detector is like: an operator set before 13, of which some have attributes for inputs."""
    net = Builder(11)
    a = net.add("Relu", [net.add("Conv", ["images", net.weight("w", 4, 3, 3, 3)], "c", pads=[1] * 4)], "a")
    b = net.add("ReduceMean", [net.add("Identity", [a], "i")], "m", axes=[2, 3], keepdims=1)
    net.add("Clip", [net.add("Mul", [a, net.add("HardSigmoid", [b], "h", alpha=0.2)], "p"), "", "most"], "out")
    net.constant("most", np.float32(0.7))
    return net.model(["out"])


def test_skips_cross_and_weights_stay_small(tmp_path: Path) -> None:
    model = OnnxModel.of(save(detector(), tmp_path / "net.onnx"))
    graph = model.graph
    at = next(i for i, node in enumerate(graph.nodes) if node.op.startswith("onnx.MaxPool"))
    assert set(graph.cuts[at].values) == {"a", "b"}, "the skip is part of the cut"
    assert graph.outputs == ("boxes", "scores")
    assert graph.flops > 16 * 24 * 8 * (27 + 72) * 2
    names = [node.name for node in graph.nodes]
    assert "net.c1" in names
    small = OnnxModel.of(save(quantised(), tmp_path / "small.onnx"))
    codes = [value for value in small.graph.weights.values() if value.dtype == "int8" and len(value.shape) == 4]
    assert [value.shape for value in codes] == [(8, 3, 3, 3), (8, 8, 3, 3)]
    assert not any(value.dtype == "float32" and value.nbytes > 64 for value in small.graph.weights.values())
    crossing = {small.graph.values[name].dtype for cut in small.graph.cuts for name in cut.values}
    assert "uint8" in crossing
    first = graph.inputs[0].name
    assert {first, "images"} <= picture_like(graph)
    assert "c1" not in picture_like(graph)
    assert "one" not in picture_like(small.graph), "nor behind a quantised weight"


def test_pictures_become_what_the_network_takes(tmp_path: Path) -> None:
    net = Builder()
    net.add("Relu", [net.add("Mul", ["images", net.constant("one", np.float32(1))], "m")], "out")
    path = save(net.model(["out"], (1, 3, "h", "w")), tmp_path / "same.onnx")
    pixels = picture(4, 5)
    plain = pixels.astype(np.float32)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    wanted = {
        "unit": plain / 255,
        "signed": plain / 127.5 - 1,
        "imagenet": (plain / 255 - mean.reshape(3, 1, 1)) / deviation.reshape(3, 1, 1),
        "bytes": plain,
    }
    for pixel, right in wanted.items():
        for bgr in (False, True):
            [found] = OnnxModel.of(path, (4, 5), pixels=pixel, bgr=bgr).run(pixels).values()
            np.testing.assert_allclose(found, np.maximum(right[:, ::-1] if bgr else right, 0), atol=1e-5)
    [found] = OnnxModel.of(path, (4, 5), "float32").run(plain / 7).values()
    np.testing.assert_array_equal(found, plain / np.float32(7))
    last = Builder()
    last.add("Neg", ["images"], "out")
    path = save(last.model(["out"], (1, 4, 5, 3), TensorProto.FLOAT), tmp_path / "last.onnx")
    assert read_onnx(path).size == (4, 5)
    [found] = OnnxModel.of(path, pixels="bytes").run(pixels).values()
    np.testing.assert_array_equal(found, -plain.transpose(0, 2, 3, 1))
    with pytest.raises(GraphError, match="no scale 'half' of pixels"):
        OnnxModel.of(path, pixels="half")


def test_outputs_may_be_inputs_and_constants(tmp_path: Path) -> None:
    net = Builder()
    net.add("Relu", ["images"], "out")
    net.constant("anchors", np.arange(6, dtype=np.float32))
    net.add("Identity", ["images"], "copy")
    proto = net.model(["out", "anchors", "copy"], (1, 3, 4, 5))
    found = OnnxModel.of(save(proto, tmp_path / "net.onnx")).run(picture(4, 5))
    assert list(found) == ["out", "anchors", "copy"]
    assert found["anchors"].tolist() == [0, 1, 2, 3, 4, 5]
    assert np.array_equal(found["out"], found["copy"])


def test_functions_of_a_file_are_read(tmp_path: Path) -> None:
    body = [helper.make_node("Mul", ["x", "x"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
    function = helper.make_function("own", "Square", ["x"], ["z"], body, [helper.make_opsetid("", 17)])
    net = Builder()
    net.nodes.append(helper.make_node("Square", ["images"], ["out"], domain="own"))
    proto = net.model(["out"], functions=[function])
    proto.opset_import.append(helper.make_opsetid("own", 1))
    model = OnnxModel.of(save(proto, tmp_path / "net.onnx"), pixels="bytes")
    assert [node.op for node in model.graph.nodes][-2:] == ["onnx.Mul.17", "onnx.Relu.17"]
    np.testing.assert_array_equal(model.run(picture())["out"], picture().astype(np.float32) ** 2)


# What is refused, and what is said of it.


def _if() -> Any:
    net = Builder()
    branch = helper.make_graph([helper.make_node("Relu", ["images"], ["b"])], "b", [], [onnx.ValueInfoProto(name="b")])
    net.constant("yes", np.array(True))
    net.add("If", ["yes"], "out", then_branch=branch, else_branch=branch)
    return net.model(["out"])


def _node(kind: str, inputs: list[str], outputs: list[str] | str = "out", **more: Any) -> Any:
    net = Builder()
    net.constant("k", np.array([2], np.int64))
    net.add(kind, inputs, outputs, **more)
    return net.model(["out"])


def _custom() -> Any:
    net = Builder()
    net.nodes.append(helper.make_node("FusedConv", ["images"], ["out"], "conv7", domain="com.microsoft"))
    return net.model(["out"])


def _sequence() -> Any:
    net = Builder()
    net.add("SplitToSequence", ["images"], "parts", axis=1)
    net.add("SequenceAt", ["parts", net.constant("at", np.array(0, np.int64))], "out")
    return net.model(["out"])


def _huge() -> Any:
    net = Builder()
    net.constant("shape", np.array([1 << 20, 1 << 20, 1, 3, 16, 24], np.int64))
    net.add("Expand", ["images", "shape"], "out")
    return net.model(["out"])


def _huge_constant() -> Any:
    net = Builder()
    net.add("ConstantOfShape", [net.constant("shape", np.array([1 << 16, 1 << 16], np.int64))], "ones")
    net.add("ReduceSum", ["ones"], "sum")
    net.add("Add", ["images", "sum"], "out")
    return net.model(["out"])


def _two_inputs() -> Any:
    proto = _node("Relu", ["images"])
    proto.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, [2]))
    return proto


def _lying_weight() -> Any:
    net = Builder()
    net.add("Conv", ["images", "w"], "out")
    net.weights.append(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 40, 1 << 40], raw_data=b"1234"))
    return net.model(["out"])


REFUSED = {
    r"If \(/net/out\): operator If is control flow": _if,
    r"com.microsoft.FusedConv \(conv7\) is of a custom domain": _custom,
    r"SplitToSequence \(/net/parts\): .* sequences": _sequence,
    r"RandomNormalLike .* draws random numbers": lambda: _node("RandomNormalLike", ["images"]),
    r"NonZero .* depends on what is in a picture": lambda: _node("NonZero", ["images"]),
    r"Frob .* is none of ONNX's": lambda: _node("Frob", ["images"]),
    r"reads 'gone', which nothing before it makes": lambda: _node("Add", ["images", "gone"]),
    r"Expand .* (more than a stage can hold|which no tensor can be)": _huge,
    r"ConstantOfShape .* more out of constants": _huge_constant,
    r"takes 2 inputs \(images, scale\)": _two_inputs,
    r"tensor w has 4 bytes where": _lying_weight,
    r"input images is 1x4x8x8": lambda: _shaped((1, 4, 8, 8)),
    r"input images is 2x3x8x8": lambda: _shaped((2, 3, 8, 8)),
    r"input images is 3x8": lambda: _shaped((3, 8)),
    r"at most 16,384 rows": lambda: _shaped((1, 3, 1 << 40, 8)),
    r"has operator set 99": lambda: _opset(99),
    r"has operator set 3": lambda: _opset(3),
    r"TopK .* (don't go together|depends)": lambda: _node("TopK", ["images", "images"], ["out", "places"]),
}


def _shaped(shape: tuple[int, ...]) -> Any:
    net = Builder()
    net.add("Relu", ["images"], "out")
    return net.model(["out"], shape)


def _opset(number: int) -> Any:
    proto = _node("Relu", ["images"])
    proto.opset_import[0].version = number
    return proto


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_cut_is_refused_by_name(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(REFUSED[words](), tmp_path / "net.onnx")
    with pytest.raises(GraphError, match=words) as error:
        OnnxModel.of(path)
    assert str(path) in str(error.value)
    assert main(["stream", "graph", str(path)]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) <= 2


def test_another_size_than_the_files_is_refused(tmp_path: Path) -> None:
    path = save(detector(), tmp_path / "net.onnx")
    with pytest.raises(GraphError, match="takes pictures of 16x24, not of 32x32"):
        OnnxModel.of(path, (32, 32))


def test_a_size_that_the_network_cannot_have_is_hinted_at(tmp_path: Path) -> None:
    path = save(detector(shape=(1, 3, "h", "w")), tmp_path / "net.onnx")
    with pytest.raises(GraphError, match=r"Concat .* don't go together: .*pictures of 17x24: .* multiples of 32"):
        OnnxModel.of(path, (17, 24))


def test_tensors_of_attributes_are_read_like_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library would look for external data in the current directory."""
    (tmp_path / "here").mkdir()
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "data.bin").write_bytes(bytes(16))
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "data.bin"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    net = Builder()
    net.nodes.append(helper.make_node("Constant", [], ["c"], value=tensor))
    net.add("Add", ["images", net.add("ReduceSum", ["c"], "s")], "out")
    path = save(net.model(["out"]), tmp_path / "model" / "net.onnx")
    with pytest.raises(GraphError, match=r"'data.bin', which isn't there"):
        OnnxModel.of(path)
    (tmp_path / "model" / "data.bin").write_bytes(np.float32([1, 2, 3, 4]).tobytes())
    model = OnnxModel.of(path, pixels="bytes")
    np.testing.assert_array_equal(model.run(picture())["out"], picture().astype(np.float32) + 10)
    lying = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1 << 40], raw_data=b"1234")
    for kind, inputs in (("Constant", []), ("ConstantOfShape", [net.constant("n", np.array([3], np.int64))])):
        other = Builder()
        other.constant("n", np.array([3], np.int64))
        for value in (lying, tensor) if kind == "ConstantOfShape" else (lying,):
            other.nodes[:] = [helper.make_node(kind, inputs, ["c"], value=value)]
            other.add("Add", ["images", other.add("ReduceSum", ["c"], "s")], "out")
            with pytest.raises(GraphError):
                OnnxModel.of(save(other.model(["out"]), tmp_path / "model" / "other.onnx"))


def test_names_of_a_file_are_shown_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = Builder()
    net.nodes.append(helper.make_node("Relu", ["images"], ["a\x1b[31m\n" + "b" * 4000], "n\x1b]0;x"))
    net.nodes.append(helper.make_node("Neg", [net.nodes[0].output[0]], ["a\x1b[31m\n" + "b" * 5000], "n\x1b]0;x"))
    path = save(net.model([net.nodes[1].output[0]]), tmp_path / "net.onnx")
    graph = OnnxModel.of(path).graph
    assert all(name.isprintable() and len(name) <= 120 for name in (*graph.values, *(n.name for n in graph.nodes)))
    assert len(set(graph.values)) == len(graph.nodes) + 1
    assert main(["stream", "graph", str(path)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_weights_may_be_listed_as_inputs(tmp_path: Path) -> None:
    """As files of older exporters do."""
    proto = detector(13)
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    found = OnnxModel.of(save(proto, tmp_path / "net.onnx")).run(picture())
    assert bits(found) == bits(OnnxModel.of(save(detector(13), tmp_path / "other.onnx")).run(picture()))


NO_TORCH = """
import sys
from cutset.cli import main
assert main(["stream", "graph", sys.argv[1]]) == 0
assert not {"torch", "openvino"} & set(sys.modules)
"""


def test_a_graph_needs_no_torch(tmp_path: Path) -> None:
    path = save(detector(), tmp_path / "net.onnx")
    subprocess.run([sys.executable, "-c", NO_TORCH, str(path)], check=True, timeout=60, stdout=subprocess.DEVNULL)


def test_external_data_comes_from_beside_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    proto = detector()
    wanted = OnnxModel.of(save(proto, tmp_path / "whole.onnx")).run(picture())
    onnx.save_model(proto, folder / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=64)
    assert OnnxModel.of(folder / "net.onnx").run(picture()).keys() == wanted.keys()
    assert bits(OnnxModel.of(folder / "net.onnx").run(picture())) == bits(wanted)
    (tmp_path / "secret").write_bytes(bytes(1 << 16))
    (folder / "link").symlink_to(tmp_path / "secret")
    for place, words in (
        ("../secret", "isn't beside it"),
        (str(tmp_path / "secret"), "isn't beside it"),
        ("link", "isn't beside it"),
        ("none", "isn't there"),
        ("", "isn't beside it"),
    ):
        changed = onnx.load_model(folder / "net.onnx", load_external_data=False)
        for entry in changed.graph.initializer[0].external_data:
            entry.value = place if entry.key == "location" else entry.value
        with pytest.raises(GraphError, match=words):
            OnnxModel.of(save(changed, folder / "other.onnx"))
    for key, value in (("offset", str(1 << 40)), ("length", "8"), ("offset", "-4"), ("offset", "x")):
        changed = onnx.load_model(folder / "net.onnx", load_external_data=False)
        entries = changed.graph.initializer[0].external_data
        if key not in [entry.key for entry in entries]:
            entries.add(key=key, value=value)
        for entry in entries:
            entry.value = value if entry.key == key else entry.value
        with pytest.raises(GraphError):
            OnnxModel.of(save(changed, folder / "other.onnx"))
    (folder / "net.bin").write_bytes((folder / "net.bin").read_bytes()[:100])
    with pytest.raises(GraphError, match="cut off"):
        OnnxModel.of(folder / "net.onnx")


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    data = detector().SerializeToString()
    path = tmp_path / "net.onnx"
    said = []
    for changed in [data[:k] for k in range(0, len(data), 97)] + list(mutations(data, 3, 80)):
        path.write_bytes(changed)
        try:
            assert isinstance(OnnxModel.of(path, (16, 24)).graph, Graph)
        except CutsetError as error:
            said.append(str(error))
    assert len(said) > 60
    assert all(len(text.splitlines()) <= 2 for text in said)


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", b"not a network", None]
)
def test_what_is_no_file_of_onnx(content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.onnx"
    if content is not None:
        path.write_bytes(content)
    assert main(["stream", "graph", str(path)]) == 2
    said = capsys.readouterr().err
    assert str(path) in said
    assert "Traceback" not in said


def test_a_forged_graph_runs_nothing_else(tmp_path: Path) -> None:
    model = OnnxModel.of(save(detector(), tmp_path / "net.onnx"))
    table = describe(model.graph)
    for op, words in (
        ("onnx.If.17", "control flow"),
        ("onnx.Frob.17", "is none of"),
        ("onnx.RandomNormal.17", "draws random"),
        ("onnx.Relu.99", "unknown here"),
        ("onnx.Relu", "one ONNX operator set"),
    ):
        forged = json.loads(json.dumps(table))
        at = next(i for i, node in enumerate(forged["nodes"]) if node["op"] == "onnx.Relu.17")
        forged["nodes"][at]["op"] = op
        with pytest.raises(GraphError, match=words):
            open_stage(read_description(forged), [at], model.weights)
    forged = json.loads(json.dumps(table))
    conv = next(i for i, node in enumerate(forged["nodes"]) if node["op"] == "onnx.Conv.17")
    for attributes in ({"pads": "x"}, {"pads": 1}, {"file": "/etc/passwd"}, {"kernel_shape": [1 << 40, 1 << 40]}):
        forged["nodes"][conv]["kwargs"] = attributes
        with pytest.raises(GraphError):
            open_stage(read_description(forged), [conv], model.weights)
