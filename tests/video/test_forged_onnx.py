"""ONNX files that nobody's exporter writes, and names that some do: refused in a line, or right."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper

from cutset.cli import main
from cutset.config import load_stream_settings
from cutset.errors import ConfigError, GraphError
from cutset.partition.node import Value
from cutset.video.imports.onnx_file import MOST_NODES, read_onnx
from cutset.video.networks import open_network
from cutset.video.onnx_model import OnnxModel
from cutset.video.runtimes import open_stage
from cutset.video.worker_runtime import VideoRuntime
from video.onnx_networks import Builder, picture, save


def one_node(kind: str, inputs: list[str], outputs: list[str] | None = None, **attributes: Any) -> bytes:
    """A constant node beside a picture."""
    net = Builder()
    net.constant("one", np.ones(1, np.float32))
    net.nodes.append(helper.make_node(kind, inputs, outputs or ["made"], **attributes))
    net.add("Reshape", ["images", "made"], "out")
    found: bytes = net.model(["out"]).SerializeToString()
    return found


def renamed(what: str) -> bytes:
    """Four letters of a name that become four bytes that are no UTF-8."""
    net = Builder()
    net.weight("wwww", 1)
    net.nodes.append(helper.make_node("Add", ["images", "wwww"], ["aaaa"], name="nnnn", domain=""))
    net.nodes.append(helper.make_node("LeakyRelu", ["aaaa"], ["out"], alpha=0.5))
    proto = net.model(["out"])
    proto.graph.node[1].attribute[0].name = "kkkk"
    found: bytes = proto.SerializeToString().replace(what.encode(), b"\xff\xfe\xfd\xfc")
    return found


def calls(depth: int, end: str) -> bytes:
    """Functions each of which calls the next one twice; the last one is `end`."""
    net = Builder()
    net.nodes.append(helper.make_node("f0", ["images"], ["out"], domain="own"))
    proto = net.model(["out"])
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    proto.opset_import.append(sets[1])
    for i in range(depth):
        name, domain = (f"f{i + 1}", "own") if i < depth - 1 else (end, "own" if end.startswith("f") else "")
        nodes = [
            helper.make_node(name, ["x"], ["t"], domain=domain),
            helper.make_node(name, ["t"], ["y"], domain=domain),
        ]
        proto.functions.append(helper.make_function("own", f"f{i}", ["x"], ["y"], nodes, sets))
    found: bytes = proto.SerializeToString()
    return found


FORGED = {
    "0 inputs and 1 outputs, which operator Identity": one_node("Identity", []),
    "0 inputs and 1 outputs, which operator Shape": one_node("Shape", []),
    "its input data is left out": one_node("Shape", [""]),
    "its input input is left out": one_node("Identity", [""]),
    "the attribute start of operator Shape": one_node("Shape", ["images"], start="a"),
    "2 outputs, which operator Size": one_node("Size", ["images"], ["", "made"]),
    "no text: it may be damaged": renamed("wwww"),
    "no text: it may be damaged ": renamed("aaaa"),
    "no text: it may be damaged  ": renamed("nnnn"),
    "no text: it may be damaged   ": renamed("kkkk"),
    "functions come to more than": calls(18, "Relu"),
    "functions come to more than ": calls(3, "f1"),
}


@pytest.mark.parametrize("words", FORGED)
def test_forged_files_are_refused_in_a_line(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(FORGED[words])
    assert main(["stream", "graph", str(path)]) == 2
    said = capsys.readouterr().err
    assert words.strip() in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) <= 2


def test_functions_that_call_each_other_are_written_out(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(calls(4, "Relu"))
    model = OnnxModel.of(path)
    assert sum(node.op.startswith("onnx.Relu") for node in model.graph.nodes) == 16 < MOST_NODES
    np.testing.assert_array_equal(model.run(picture())["out"], picture().astype(np.float32) / np.float32(255))


def test_weights_that_lie_in_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    net = Builder()
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="loop")
    net.weights.append(tensor)
    net.add("Add", ["images", "w"], "out")
    with pytest.raises(GraphError, match="the data of w"):
        OnnxModel.of(save(net.model(["out"]), tmp_path / "net.onnx"))


def test_names_that_the_nodes_in_front_would_have_too(tmp_path: Path) -> None:
    """A module `images` with a buffer `mean` is written so; its own numbers count."""
    net, values = Builder(), np.float32([10, 20, 30]).reshape(1, 3, 1, 1)
    for name in ("images.mean", "images.deviation", "images.channels"):
        net.constant(name, values)
    made = net.add("Mul", ["images", "images.mean"], "images.pictures")
    made = net.add("Add", [made, "images.deviation"], "images.gather0")
    net.add("Sub", [made, "images.channels"], "out")
    model = OnnxModel.of(save(net.model(["out"]), tmp_path / "net.onnx"), pixels="signed", bgr=True)
    scaled = (picture()[:, ::-1].astype(np.float32) - np.float32(127.5)) / np.float32(127.5)
    np.testing.assert_array_equal(model.run(picture())["out"], scaled * values + values - values)


@pytest.mark.parametrize("runtime", ["", "onnxruntime+fused"])
def test_names_with_colons_as_tensorflow_s_converter_writes_them(runtime: str, tmp_path: Path) -> None:
    """A node `Add` that makes `Add:0` reads floats that are made of a quantised weight."""
    net = Builder()
    codes, scale = net.constant("codes", np.int8([[[[3]]]])), net.constant("scale", np.float32(0.5))
    net.add("DequantizeLinear", [codes, scale], "floats")
    net.nodes.append(helper.make_node("Add", ["floats", "images"], ["Add:0"], name="Add"))
    net.nodes.append(helper.make_node("Relu", ["Add:0"], ["Add:1"], name="Relu"))
    model = OnnxModel.of(save(net.model(["Add:1"]), tmp_path / "net.onnx"), pixels="bytes")
    stage = open_stage(model.graph, range(len(model.graph.nodes)), model.weights, runtime)
    found = stage.run(0, {model.input.name: picture()})["Add:1"]
    np.testing.assert_array_equal(found, picture().astype(np.float32) + 1.5)


def test_a_worker_reads_the_weights_of_a_file_in_capitals(tmp_path: Path) -> None:
    net = Builder()
    net.add("Add", ["images", net.constant("w", np.float32([7]))], "out")
    path = save(net.model(["out"]), tmp_path / "net.onnx")
    shutil.copy(path, tmp_path / "NET.ONNX")
    assert read_onnx(tmp_path / "NET.ONNX").opset == 17
    found = VideoRuntime().open_weights(tmp_path / "NET.ONNX")("w", Value("w", (1,), "float32"))
    assert found is not None
    assert found.tolist() == [7]


def test_a_scale_of_pixels_for_a_network_that_takes_none(tmp_path: Path) -> None:
    net = Builder()
    net.add("Cast", ["images"], "out", to=TensorProto.FLOAT)
    file = read_onnx(save(net.model(["out"], element=TensorProto.UINT8), tmp_path / "net.onnx"))
    settings = load_stream_settings({"pixels": "imagenet"})
    with pytest.raises(ConfigError, match="--pixels: the network takes pixels as they are"):
        open_network(file, (1, 3, 16, 24), "uint8", settings)
