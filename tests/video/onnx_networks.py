"""Small networks as ONNX files: skips, several outputs, shapes that are computed, quantised weights, float16."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

Floats = NDArray[Any]


class Builder:
    """Collects nodes and initializers of a model."""

    def __init__(self, opset: int = 17, seed: int = 0) -> None:
        self.opset, self.random = opset, np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def weight(self, name: str, *shape: int, dtype: str = "float32") -> str:
        values = self.random.uniform(-0.5, 0.5, shape).astype(dtype)
        return self.constant(name, values)

    def constant(self, name: str, values: Any) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(self, kind: str, inputs: Sequence[str], outputs: str | Sequence[str], **attributes: Any) -> str:
        names = [outputs] if isinstance(outputs, str) else list(outputs)
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f"/net/{names[0]}", **attributes))
        return names[0]

    def model(
        self,
        outputs: Sequence[str],
        shape: Sequence[int | str] = (1, 3, 16, 24),
        element: int = TensorProto.FLOAT,
        **more: Any,
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("images", element, shape)],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            self.weights,
        )
        for info in graph.output:
            info.type.tensor_type.elem_type = element
        sets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=sets, ir_version=8 if self.opset < 21 else 10, **more)


def detector(opset: int = 17, shape: Sequence[int | str] = (1, 3, 16, 24), dtype: str = "float32") -> onnx.ModelProto:
    """Two outputs; a skip over several layers, a branch that is pooled and resized, a reshape to a computed shape."""
    net = Builder(opset)
    half = {"dtype": dtype}
    a = net.add(
        "Conv", ["images", net.weight("w1", 8, 3, 3, 3, **half), net.weight("b1", 8, **half)], "c1", pads=[1] * 4
    )
    a = net.add("Relu", [a], "a")
    b = net.add("Conv", [a, net.weight("w2", 8, 8, 3, 3, **half)], "c2", pads=[1] * 4, strides=[1, 1])
    b = net.add("Mul", [b, net.add("Sigmoid", [b], "s2")], "b")
    net.add("Identity", ["w1"], "alias")
    small = net.add("MaxPool", [b], "small", kernel_shape=[2, 2], strides=[2, 2])
    small = net.add("Conv", [small, net.weight("w3", 8, 8, 1, 1, **half)], "c3")
    roi = net.constant("scales", np.array([1, 1, 2, 2], np.float32))
    up = net.add("Resize", [small, "", roi], "up", mode="nearest", coordinate_transformation_mode="asymmetric")
    joined = net.add("Concat", [net.add("Add", [a, b], "sum"), up], "joined", axis=1)
    raw = net.add("Conv", [joined, net.weight("w4", 6, 16, 1, 1, **half)], "raw")
    size = net.add("Shape", [raw], "size")
    first = net.add("Gather", [size, net.constant("zero", np.array(0, np.int64))], "first", axis=0)
    first = net.add("Unsqueeze", [first, net.constant("axes", np.array([0], np.int64))], "batch")
    target = net.add("Concat", [first, net.constant("rest", np.array([6, -1], np.int64))], "target", axis=0)
    net.add("Reshape", [raw, target], "boxes")
    pooled = net.add("GlobalAveragePool", [joined], "pooled")
    net.add("Softmax", [net.add("Flatten", [pooled], "flat")], "scores", axis=1)
    return net.model(["boxes", "scores"], shape, TensorProto.FLOAT16 if dtype == "float16" else TensorProto.FLOAT)


def quantised(opset: int = 13) -> onnx.ModelProto:
    """QDQ: int8 weights by channel, uint8 activations between the layers."""
    net = Builder(opset)

    def activation(name: str, scale: float) -> str:
        parts = [net.constant(f"{name}.scale", np.float32(scale)), net.constant(f"{name}.zero", np.uint8(3))]
        net.add("QuantizeLinear", [name, *parts], f"{name}.q")
        return net.add("DequantizeLinear", [f"{name}.q", *parts], f"{name}.dq")

    def conv(name: str, given: str, outputs: int, inputs: int) -> str:
        codes = net.random.integers(-100, 100, (outputs, inputs, 3, 3)).astype(np.int8)
        scales = net.random.uniform(0.002, 0.004, outputs).astype(np.float32)
        parts = [net.constant(f"{name}.w", codes), net.constant(f"{name}.s", scales)]
        net.add(
            "DequantizeLinear", [*parts, net.constant(f"{name}.z", np.zeros(outputs, np.int8))], f"{name}.f", axis=0
        )
        return net.add("Conv", [given, f"{name}.f"], name, pads=[1] * 4)

    first = net.add("Relu", [conv("one", activation("images", 0.01), 8, 3)], "r1")
    second = net.add("Relu", [conv("two", activation(first, 0.02), 8, 8)], "r2")
    net.add("Add", [second, f"{first}.dq"], "out")
    return net.model(["out"])


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def session(model: onnx.ModelProto) -> Callable[[Floats], dict[str, Floats]]:
    """onnxruntime as it comes, for the network's own input."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    made = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in made.get_outputs()]
    return lambda given: dict(zip(names, made.run(None, {made.get_inputs()[0].name: given}), strict=True))


def picture(height: int = 16, width: int = 24, seed: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (1, 3, height, width), dtype=np.uint8)
