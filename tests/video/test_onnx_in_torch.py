"""ONNX's operators by torch's kernels: what the onnx library's own examples of each operator say."""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")
from onnx import helper

from cutset.errors import GraphError
from cutset.partition.node import Value
from cutset.video.check import range_error
from cutset.video.onnx_model import OnnxModel
from cutset.video.runtimes import open_stage
from cutset.video.runtimes.onnx_calls import OnnxCall
from cutset.video.runtimes.onnx_torch_stage import OPERATORS
from cutset.video.runtimes.submodel import ELEMENTS
from video.onnx_networks import Builder, detector, picture, quantised, save, session

# What torch does otherwise, or not at all, and says so.
REFUSED = 0.2  # share of the examples


def examples() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own, of numbers that overflow
        from onnx.backend.test.case.node import collect_testcases

        return [case for case in collect_testcases(None) if len(case.model.graph.node) == 1]


def computed(case: Any, inputs: list[Any], outputs: list[Any]) -> list[Any] | None:
    """What torch makes of an example; None for one of a kind that no stage has."""
    [node] = case.model.graph.node
    given = dict(zip((one.name for one in case.model.graph.input), inputs, strict=True))
    made = dict(zip((one.name for one in case.model.graph.output), outputs, strict=True))
    arrays = [given.get(name) if name else None for name in node.input]
    everything = [*(a for a in arrays if a is not None), *made.values()]
    if not all(isinstance(a, np.ndarray | np.generic) and np.asarray(a).dtype.name in ELEMENTS for a in everything):
        return None
    values = tuple(
        Value(name, np.asarray(made[name]).shape, np.asarray(made[name]).dtype.name) if name in made else None
        for name in node.output
    )
    attributes = {}
    for one in node.attribute:
        value = helper.get_attribute_value(one)
        attributes[one.name] = value.decode() if isinstance(value, bytes) else value
    tensors = [None if a is None else torch.from_numpy(np.array(a)) for a in arrays]
    opset = next(one.version for one in case.model.opset_import if one.domain == "")
    found = OPERATORS[node.op_type](OnnxCall(attributes, values, opset), tensors)
    several = found if isinstance(found, tuple | list) else (found,)
    return [one.numpy() for one, value in zip(several, values, strict=False) if value is not None]


@pytest.mark.slow
def test_the_librarys_examples() -> None:
    cases = examples()
    right, refused, seen = 0, [], Counter[str]()
    for case in cases:
        kind = case.model.graph.node[0].op_type
        if kind not in OPERATORS or case.model.graph.node[0].domain:
            continue
        for inputs, outputs in case.data_sets:
            try:
                found = computed(case, list(inputs), list(outputs))
            except (GraphError, IndexError, RuntimeError, NotImplementedError):  # the stage makes one kind of them
                refused.append(case.name)
                continue
            if found is None:
                continue
            for one, wanted in zip(found, outputs, strict=False):
                assert one.shape == np.shape(wanted), case.name
                assert one.dtype == np.asarray(wanted).dtype, case.name
                np.testing.assert_allclose(one, wanted, rtol=2e-3, atol=1e-5, err_msg=case.name)
            right, seen[kind] = right + 1, seen[kind] + 1
    assert right > 250
    assert len(refused) < REFUSED * right, refused
    assert set(OPERATORS) - set(seen) <= {"Cast", "Upsample"}, "no example of it"


@pytest.mark.parametrize("make", [detector, quantised, lambda: detector(13), lambda: detector(dtype="float16")])
def test_networks_have_the_same_bits_however_they_are_cut(make: Any, tmp_path: Path) -> None:
    proto = make()
    half = proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    model = OnnxModel.of(save(proto, tmp_path / "net.onnx"))
    graph, pixels = model.graph, picture()
    count = len(graph.nodes)
    seconds: list[float] = []
    whole = open_stage(graph, range(count), model.weights, "torch").run(
        0, {graph.inputs[0].name: pixels}, seconds.append
    )
    assert len(seconds) == count
    assert range_error(whole, model.run(pixels)) <= (1e-2 if half or make is quantised else 1e-4)
    stages = {}
    for first, last in itertools.combinations(range(count + 1), 2):
        if last == count or first == 0:
            stages[first, last] = open_stage(graph, range(first, last), model.weights, "torch")
    for k in range(1, count):
        held = {graph.inputs[0].name: pixels}
        held |= stages[0, k].run(0, held)
        held |= stages[k, count].run(0, held)
        assert all(held[name].tobytes() == array.tobytes() for name, array in whole.items()), k


RESIZED = [
    (mode, policy, sizes, where)
    for mode in ("nearest", "linear")
    for policy in ("stretch", "not_larger", "not_smaller")
    for sizes in ((20, 17), (23, 31), (7, 40))
    for where in ("half_pixel", "asymmetric")
]
TRANSPOSED: list[dict[str, Any]] = [
    {"output_shape": [32, 48], "strides": [2, 2]},
    {"output_shape": [31, 47], "strides": [2, 2]},
    {"output_shape": [32, 48], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    {"pads": [1, 1, 1, 1], "strides": [2, 2], "output_padding": [1, 1]},
    {"dilations": [2, 1], "group": 1, "pads": [2, 0, 1, 1]},
]


def like_onnxruntime(net: Builder, tmp_path: Path) -> None:
    """Torch gives what onnxruntime gives for the whole file."""
    proto = net.model(["out"])
    model = OnnxModel.of(save(proto, tmp_path / "net.onnx"))
    wanted = session(proto)(picture().astype(np.float32) / np.float32(255))
    found = open_stage(model.graph, range(len(model.graph.nodes)), model.weights, "torch")
    assert range_error(found.run(0, {model.input.name: picture()}), wanted) <= 1e-5


@pytest.mark.parametrize(("mode", "policy", "sizes", "where"), RESIZED)
def test_sizes_that_keep_proportions(
    mode: str, policy: str, sizes: tuple[int, int], where: str, tmp_path: Path
) -> None:
    net = Builder(18)
    given = net.constant("sizes", np.array(sizes, np.int64))
    how = {"mode": mode, "keep_aspect_ratio_policy": policy, "coordinate_transformation_mode": where}
    net.add("Resize", ["images", "", "", given], "out", axes=[2, 3], **how)
    like_onnxruntime(net, tmp_path)


@pytest.mark.parametrize("attributes", TRANSPOSED, ids=str)
def test_where_transposed_convolutions_begin(attributes: dict[str, Any], tmp_path: Path) -> None:
    net = Builder()
    net.add("ConvTranspose", ["images", net.weight("w", 3, 4, 3, 3), net.weight("b", 4)], "out", **attributes)
    like_onnxruntime(net, tmp_path)


@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_norms_of_groups(opset: int, groups: int, tmp_path: Path) -> None:
    """The library infers no shape for them. Up to operator set 20 each group has a scale, from 21 on each channel."""
    net = Builder(opset)
    many = net.add("Conv", ["images", net.weight("w", 6, 3, 1, 1)], "six")
    parts = [net.weight(name, 6 if opset > 20 else groups) for name in ("scale", "bias")]
    net.add("GroupNormalization", [many, *parts], "out", num_groups=groups, epsilon=0.1)
    proto = net.model(["out"])
    model = OnnxModel.of(save(proto, tmp_path / "net.onnx"))
    pixels = picture()
    wanted = session(proto)(pixels.astype(np.float32) / np.float32(255))
    assert range_error(model.run(pixels), wanted) <= 1e-6
    found = open_stage(model.graph, range(len(model.graph.nodes)), model.weights, "torch")
    assert range_error(found.run(0, {model.input.name: pixels}), wanted) <= 1e-5


def test_an_operator_without_a_shape_of_its_own(tmp_path: Path) -> None:
    net = Builder()
    net.add("MeanVarianceNormalization", ["images"], "out", axes=[2, 3])
    proto = net.model(["out"])
    wanted = session(proto)(picture().astype(np.float32) / np.float32(255))
    assert range_error(OnnxModel.of(save(proto, tmp_path / "net.onnx")).run(picture()), wanted) <= 1e-6


def test_outputs_that_torch_gives_not(tmp_path: Path) -> None:
    net = Builder()
    net.nodes.append(helper.make_node("Dropout", ["images"], ["kept", "mask"]))
    net.add("Where", ["mask", "kept", net.constant("zero", np.float32(0))], "out")
    model = OnnxModel.of(save(net.model(["out"]), tmp_path / "net.onnx"), pixels="bytes")
    assert np.array_equal(model.run(picture())["out"], picture())
    with pytest.raises(GraphError, match="torch gives 1 of its outputs, and more are read"):
        open_stage(model.graph, range(len(model.graph.nodes)), model.weights, "torch")


def test_an_operator_that_torch_has_not(tmp_path: Path) -> None:
    net = Builder()
    net.add("CumSum", ["images", net.constant("axis", np.array(1, np.int64))], "out")
    model = OnnxModel.of(save(net.model(["out"]), tmp_path / "net.onnx"))
    with pytest.raises(GraphError, match="torch has no function for CumSum; take --runtime onnxruntime or openvino"):
        open_stage(model.graph, range(len(model.graph.nodes)), model.weights, "torch")
