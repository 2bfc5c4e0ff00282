"""Small ONNX networks, each with something that delta compute reads in its own way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from video.onnx_networks import Builder

__all__ = ["PARTS", "begun"]

Make = Callable[[], onnx.ModelProto]


def begun(net: Builder, channels: int = 8, **attributes: Any) -> str:
    """A convolution of the picture."""
    return net.add("Conv", ["images", net.weight("w0", channels, 3, 3, 3)], "x", pads=[1] * 4, **attributes)


def ended(net: Builder, name: str, channels: int, shape: tuple[int, ...] = (1, 3, 15, 18)) -> onnx.ModelProto:
    """A convolution over what was made, so that a wrong place would show."""
    net.add("Conv", [name, net.weight("wz", 5, channels, 3, 3)], "out", pads=[1] * 4)
    return net.model(["out"], shape)


def windows() -> onnx.ModelProto:
    """Padding of every kind, strides, dilations, groups."""
    net = Builder()
    x = begun(net, strides=[2, 1])
    x = net.add("Conv", [x, net.weight("w1", 8, 8, 2, 2)], "c1", auto_pad="SAME_UPPER")
    x = net.add("Conv", [x, net.weight("w2", 8, 1, 4, 3), net.weight("b2", 8)], "c2", auto_pad="SAME_LOWER", group=8)
    x = net.add("Conv", [x, net.weight("w3", 12, 4, 3, 3)], "c3", pads=[2, 1, 0, 3], group=2, dilations=[1, 2])
    x = net.add("Conv", [x, net.weight("w4", 8, 12, 3, 3)], "c4", auto_pad="SAME_UPPER", strides=[2, 2])
    return ended(net, net.add("Conv", [x, net.weight("w5", 8, 8, 1, 1)], "c5", auto_pad="VALID"), 8)


def pools() -> onnx.ModelProto:
    net = Builder(19)
    x = begun(net)
    parts = [
        net.add("MaxPool", [x], "p1", kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
        net.add("MaxPool", [x], "p2", kernel_shape=[3, 3], pads=[1] * 4, dilations=[1, 1]),
        net.add("AveragePool", [x], "p3", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
        net.add("AveragePool", [x], "p4", kernel_shape=[3, 3], pads=[1] * 4),
        net.add("Add", [x, net.add("GlobalAveragePool", [x], "g1")], "p5"),
        net.add("Mul", [net.add("GlobalMaxPool", [x], "g2"), x], "p6"),
        net.add("Mul", [x, net.add("ReduceMean", [x, net.constant("axes", np.array([-1, 2]))], "g3")], "p7"),
    ]
    net.opset = 18
    net.opset = 19
    x = net.add("Concat", parts, "all", axis=-3)
    x = net.add("MaxPool", [x], "ceil", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    return ended(net, x, 8 * 7)


def activations() -> onnx.ModelProto:
    """Written out in several nodes, and as one."""
    net = Builder(20)

    def number(name: str, value: float) -> str:
        return net.constant(name, np.float32(value))

    x = begun(net)
    made = [net.add("Mul", [net.add("Sigmoid", [x], "s1"), x], "silu")]
    y = net.add("Add", [x, net.constant("bias", np.linspace(-1, 1, 8, dtype=np.float32).reshape(1, 8, 1, 1))], "y")
    z = net.add("Erf", [net.add("Div", [y, number("root", 2**0.5)], "d")], "e")
    z = net.add("Mul", [y, net.add("Add", [z, number("one", 1)], "e1")], "e2")
    made.append(net.add("Mul", [z, number("half", 0.5)], "gelu"))
    three = net.add("Clip", [net.add("Add", [x, number("three", 3)], "t1"), number("nil", 0), number("six", 6)], "t2")
    made.append(net.add("Div", [net.add("Mul", [x, three], "t3"), "six"], "hardswish"))
    slow = net.add("HardSigmoid", [x], "h1", alpha=0.16666670143604279, beta=0.5)
    made.append(net.add("Mul", [x, slow], "hardswish2"))
    for kind, more in (
        ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
        ("LeakyRelu", {"alpha": 0.2}),
        ("HardSwish", {}),
        ("Tanh", {}),
        ("Relu", {}),
        ("Gelu", {"approximate": "tanh"}),
    ):
        made.append(net.add(kind, [net.add("Mul", [x, number(f"m{kind}", 0.7)], f"i{kind}")], f"o{kind}", **more))
    made.append(net.add("Clip", [x, "nil"], "clipped"))
    made.append(net.add("Clip", [x, "", "six"], "below"))  # no lower limit: computed whole
    made.append(net.add("PRelu", [x, number("slope", 0.1)], "prelu"))
    return ended(net, net.add("Concat", made, "all", axis=1), 8 * len(made))


def shared() -> onnx.ModelProto:
    """What looks like one activation but is read elsewhere, or is an output."""
    net = Builder()
    x = begun(net)
    sigmoid = net.add("Sigmoid", [x], "sigmoid")
    silu = net.add("Mul", [x, sigmoid], "silu")
    both = net.add("Add", [silu, sigmoid], "both")
    once = net.add("Relu", [both], "once")
    net.add("Mul", [once, net.add("Sigmoid", [once], "inner")], "last")
    net.add("Conv", ["last", net.weight("wz", 5, 8, 3, 3)], "out", pads=[1] * 4)
    return net.model(["out", "sigmoid", "once"], (1, 3, 15, 18))


def arithmetic() -> onnx.ModelProto:
    """Constants on either side, of one number and of one each channel; norms."""
    net = Builder()
    each = net.constant("each", np.linspace(0.5, 2, 8, dtype=np.float32).reshape(8, 1, 1))
    x = begun(net)
    x = net.add("Sub", [each, x], "a1")
    x = net.add("Mul", [net.constant("two", np.float32(2)), net.add("Relu", [x], "r1")], "a2")
    x = net.add("Div", [x, each], "a3")
    norm = [net.constant(f"n{i}", np.linspace(0.5, 1.5, 8, dtype=np.float32)) for i in range(4)]
    x = net.add("BatchNormalization", [x, *norm], "a4", epsilon=0.01)
    y = net.add("Conv", [x, net.weight("w1", 8, 8, 1, 1)], "c1")
    y = net.add("BatchNormalization", [y, *norm], "a5")
    x = net.add("Max", [net.add("Div", [net.add("Sub", [x, y], "a6"), each], "a7"), y], "a8")
    x = net.add("Sum", [x, net.add("Min", [x, y], "a9")], "a10")
    x = net.add("Div", [each, net.add("Add", [net.add("Relu", [x], "r2"), "each"], "pos")], "inverse")  # whole
    return ended(net, x, 8)


def channels() -> onnx.ModelProto:
    """Split into parts of which one is read by nobody, sliced, in another order; rows and columns too."""
    net = Builder()
    x = begun(net, 12)
    net.add("Split", [x, net.constant("sizes", np.array([3, 4, 5]))], ["s0", "s1", "s2"], axis=1)
    half = [net.add("Split", [x, net.constant("halves", np.array([6, 6]))], ["h0", "h1"], axis=-3), "h1"]

    def numbers(name: str, *values: int) -> str:
        return net.constant(name, np.array(values, np.int64))

    part = net.add("Slice", [x, numbers("f1", -7), numbers("t1", 99), numbers("a1", 1)], "part")
    turned = net.add("Gather", [x, numbers("order", 2, -1, 0)], "turned", axis=1)
    x = net.add("Concat", ["s2", "s0", half[1], part, turned], "all", axis=1)
    even = net.add(
        "Slice", [x, numbers("f2", 0, 1), numbers("t2", 99, 99), numbers("a2", 2, 3), numbers("p2", 2, 2)], "e"
    )
    back = net.add("Slice", [x, numbers("f3", -1, 0), numbers("t3", -99, 17), "a2", numbers("p3", -2, 2)], "b")
    return ended(net, net.add("Concat", [even, back], "both", axis=1), 2 * (5 + 3 + 6 + 7 + 3))


def resizes() -> onnx.ModelProto:
    net = Builder()
    x = begun(net, strides=[2, 2])
    scales = net.constant("scales", np.array([1, 1, 2, 2], np.float32))
    sizes = net.constant("sizes", np.array([1, 8, 16, 18]))
    made = []
    for i, (mode, where, more) in enumerate(
        (
            ("nearest", "asymmetric", {"nearest_mode": "floor"}),
            ("nearest", "half_pixel", {}),
            ("linear", "half_pixel", {}),
            ("linear", "align_corners", {}),
            ("linear", "asymmetric", {}),
        )
    ):
        made.append(
            net.add("Resize", [x, "", scales], f"up{i}", mode=mode, coordinate_transformation_mode=where, **more)
        )
    made.append(net.add("Resize", [x, "", "", sizes], "sized", mode="linear"))
    cubic = net.add("Resize", [x, "", scales], "cubic", mode="cubic")  # whole
    x = net.add("Concat", [*made, cubic], "all", axis=1)
    return ended(net, x, 8 * 7)


def transposed() -> onnx.ModelProto:
    """Windows side by side, and such as overlap, which are computed whole; depth to space in both orders."""
    net = Builder()
    x = begun(net, strides=[3, 3])
    y = net.add("ConvTranspose", [x, net.weight("w1", 8, 6, 2, 3), net.weight("b1", 6)], "t1", strides=[2, 3])
    y = net.add("Add", [y, net.constant("shift", np.linspace(-1, 1, 6, dtype=np.float32).reshape(1, 6, 1, 1))], "t2")
    y = net.add("Relu", [y], "t3")
    z = net.add(
        "ConvTranspose",
        [x, net.weight("w2", 8, 2, 3, 3)],
        "t4",
        strides=[2, 3],
        output_padding=[1, 0],
        pads=[1, 0, 1, 0],
    )
    x = net.add("Conv", [x, net.weight("w3", 24, 8, 1, 1)], "wide")
    d = [net.add("DepthToSpace", [x], f"d{mode}", blocksize=2, mode=mode) for mode in ("DCR", "CRD")]
    d = net.add("Concat", d, "spread", axis=1)
    d = net.add("Conv", [d, net.weight("w4", 4, 12, 3, 3)], "small", pads=[1] * 4)
    net.add("Conv", [net.add("Concat", [y, z], "both", axis=1), net.weight("w5", 5, 8, 3, 3)], "out")
    return net.model(["out", "small", "t3"], (1, 3, 15, 18))


def head() -> onnx.ModelProto:
    """What follows convolutions in detectors: reshapes, a softmax, a product, boxes."""
    net = Builder()
    x = net.add("Relu", [begun(net, 16, strides=[3, 3])], "r")
    net.add("Identity", [x], "same")
    x = net.add("Reshape", ["same", net.constant("flat", np.array([1, 4, 4, 30]))], "f1")
    x = net.add("Softmax", [net.add("Transpose", [x], "f2", perm=[0, 2, 1, 3])], "f3", axis=1)
    x = net.add("Conv", [x, net.constant("dfl", np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1))], "f4")
    x = net.add("Reshape", [x, net.constant("four", np.array([1, 4, 30]))], "f5")
    net.add(
        "Slice",
        [x, net.constant("z", np.array([0])), net.constant("two", np.array([2])), net.constant("a", np.array([1]))],
        "f6",
    )
    net.add("Sigmoid", [net.add("Mul", [x, x], "f7")], "boxes")
    net.add("MatMul", ["f6", net.weight("product", 30, 3)], "scores")
    return net.model(["boxes", "scores", "r"], (1, 3, 15, 18))


def half() -> onnx.ModelProto:
    """float16: computed whole, as it is by the runtime."""
    net = Builder()
    x = net.add("Conv", ["images", net.weight("w0", 8, 3, 3, 3, dtype="float16")], "x", pads=[1] * 4)
    net.add("Relu", [x], "out")
    return net.model(["out"], (1, 3, 15, 18), TensorProto.FLOAT16)


def old() -> onnx.ModelProto:
    """Operator set 9: limits, slices and scales are attributes."""
    net = Builder(9)
    x = net.add("Clip", [begun(net)], "c", min=0.0, max=1.5)
    x = net.add("Slice", [x], "s", axes=[1], starts=[2], ends=[7])
    net.add("Split", [x], ["p0", "p1"], axis=1, split=[2, 3])
    x = net.add("Upsample", ["p1", net.constant("scales", np.array([1, 1, 2, 2], np.float32))], "u", mode="nearest")
    x = net.add("Mul", [x, net.add("ReduceMean", [x], "m", axes=[2, 3], keepdims=1)], "g")
    return ended(net, x, 3)


# By name: the network, and the operators of it that are computed whole.
PARTS: dict[str, tuple[Make, set[str]]] = {
    "windows": (windows, set()),
    "pools": (pools, set()),
    "activations": (activations, {"Clip"}),
    "shared": (shared, set()),
    "arithmetic": (arithmetic, {"Div"}),
    "channels": (channels, set()),
    "resizes": (resizes, {"Resize"}),
    "transposed": (transposed, {"ConvTranspose"}),
    "head": (head, {"Reshape", "Transpose", "Softmax", "Conv", "Slice", "Mul", "Sigmoid", "MatMul"}),
    "half": (half, {"Cast", "Conv", "Relu"}),
    "old": (old, set()),
}
