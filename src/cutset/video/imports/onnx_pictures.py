"""The nodes in front of a network from an ONNX file that make what it takes out of 8-bit pictures."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from cutset.cluster.values import Array
from cutset.errors import GraphError
from cutset.partition.node import free_name
from cutset.video.runtimes.submodel import ELEMENTS

__all__ = ["PIXELS", "PictureNodes", "picture_nodes"]

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's red, green and blue, of 1

# What is subtracted from a pixel of 0 to 255, and what it is then divided by: one number, or one for each channel.
PIXELS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "unit": ((0.0,), (255.0,)),  # 0 to 1
    "signed": ((127.5,), (127.5,)),  # -1 to 1
    "imagenet": (tuple(255 * m for m in MEAN), tuple(255 * d for d in DEVIATION)),
    "bytes": ((0.0,), (1.0,)),  # 0 to 255
}


@dataclass
class PictureNodes:
    """The name of the input in front, and nodes with constants that make the network's own input of it."""

    input: str
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)


def picture_nodes(
    name: str,
    shape: tuple[int, ...],
    wants: str,
    given: str,
    last: bool,
    scale: tuple[tuple[float, ...], tuple[float, ...]],
    bgr: bool,
    taken: Container[str] = (),
) -> PictureNodes:
    """For an input `name` of this shape and dtype `wants`, from pictures (1, 3, rows, columns) of dtype `given`.

    `taken`: names of the network, which may have an `images.mean` of its own. Floats that are given count as scaled
    already. Raises GraphError where neither makes the other.
    """
    steps: list[tuple[str, list[str], dict[str, Any]]] = []
    constants: dict[str, Array] = {}

    def constant(word: str, array: Array) -> str:
        own = free_name(f"{name}.{word}", taken)
        constants[own] = array
        return own

    if bgr:
        steps.append(("Gather", [constant("channels", np.array([2, 1, 0], np.int64))], {"axis": 1}))
    floats = ("float16", "float32", "float64")
    if given != wants:
        if wants not in floats or given not in ("uint8", *floats):
            raise GraphError(f"its input {name[:100]} is {wants}; pictures are {given}")
        steps.append(("Cast", [], {"to": ELEMENTS["float32" if given == "uint8" else wants]}))
    if given == "uint8" and wants in floats:
        # Each colour by its own numbers, wherever it stands.
        mean, deviation = (np.array(part[::-1] if bgr else part, np.float32).reshape(1, -1, 1, 1) for part in scale)
        if mean.any():
            steps.append(("Sub", [constant("mean", mean)], {}))
        if (deviation != 1).any():
            steps.append(("Div", [constant("deviation", deviation)], {}))
        if wants != "float32":
            steps.append(("Cast", [], {"to": ELEMENTS[wants]}))
    if last:
        steps.append(("Transpose", [], {"perm": [0, 2, 3, 1]}))
    if not steps:
        return PictureNodes(name)
    found = PictureNodes(free_name(f"{name}.pictures", taken), [], constants)
    before = found.input
    for i, (kind, more, attributes) in enumerate(steps):
        after = name if i == len(steps) - 1 else free_name(f"{name}.{kind.lower()}{i}", taken)
        found.nodes.append(helper.make_node(kind, [before, *more], [after], f"{name}.{kind}{i}", **attributes))
        before = after
    return found
