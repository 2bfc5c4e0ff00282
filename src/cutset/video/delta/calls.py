"""A node as what makes layers of it sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cutset.partition.node import Argument, Node, Value

__all__ = ["NodeCall", "is_map"]


def is_map(value: Value) -> bool:
    """Whether a value may be held as a map: a feature map of one picture."""
    return len(value.shape) == 4 and value.shape[0] == 1 and 0 not in value.shape and value.dtype == "float32"


@dataclass(frozen=True)
class NodeCall:
    """A node with its arguments by place, or several nodes, of which it is the last, that are one operation."""

    number: int
    node: Node
    value: Value  # that it makes
    numbers: tuple[int, ...] = ()  # of all its nodes
    flops: int = 0  # of all its nodes

    @classmethod
    def of(cls, number: int, node: Node, value: Value) -> NodeCall:
        """One node alone."""
        return cls(number, node, value, (number,), node.flops)

    @property
    def opset(self) -> int:
        """ONNX's operator set; 0 for torch's operators."""
        last = self.node.op.rpartition(".")[2]
        return int(last) if self.node.op.startswith("onnx.") and last.isdecimal() else 0

    def arg(self, at: int, default: Argument = None, name: str = "") -> Any:
        """An argument that is a number, a text or a list of them."""
        for key, argument in self.node.kwargs:
            if key == name:
                return argument
        return self.node.args[at] if at < len(self.node.args) else default

    @property
    def attributes(self) -> dict[str, Any]:
        """Those of an ONNX node."""
        return dict(self.node.kwargs)

    def sides(self, at: int, default: Argument) -> tuple[int, int] | None:
        """Rows and columns of a window's argument; None where it is none."""
        found = self.arg(at, default)
        if isinstance(found, tuple) and not found:
            found = default
        pair = (found, found) if isinstance(found, int) else found
        if isinstance(pair, tuple) and len(pair) == 1:
            pair = pair * 2
        if not (isinstance(pair, tuple) and len(pair) == 2 and all(type(side) is int for side in pair)):
            return None
        return int(pair[0]), int(pair[1])
