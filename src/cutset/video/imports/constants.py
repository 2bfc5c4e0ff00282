"""What a network makes out of nothing, as `torch.arange` does: computed once, when it is exported, and kept as weights.

Memory that `torch.empty` leaves as it is counts as zeros. What may depend on them is made twice, with other values the
second time, so that whoever runs the graph can see whether they reach an output.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from cutset.errors import GraphError, first_line
from cutset.video.imports.explain import line_of
from cutset.video.imports.operators import UNDEFINED, draws

__all__ = ["Constants"]


class Constants:
    """The nodes of an exported program that depend on neither inputs nor weights. `take` gets each, in order."""

    def __init__(self) -> None:
        self.undefined: list[Any] = []  # nodes that leave memory as it is
        self._made: dict[Any, tuple[Any, Any]] = {}  # node: what it makes, and what it would make of other memory

    def __contains__(self, node: Any) -> bool:
        return node in self._made

    def __getitem__(self, node: Any) -> Any:
        """A tensor, a number, or several of them."""
        return self._made[node][0]

    def otherwise(self, node: Any) -> Any:
        """The same with other values where memory is left as it is."""
        return self._made[node][1]

    def take(self, node: Any) -> bool:
        """Computes a node if it depends on nothing; False for the others. Raises GraphError."""
        if not isinstance(node, torch.fx.Node) or node.op != "call_function":
            return False
        made: Any = node.meta.get("val")
        if _leaves_memory(node) and all(isinstance(size, int) for size in made.shape):
            zeros = torch.empty_strided(made.shape, made.stride(), dtype=made.dtype, device=made.device).zero_()
            self.undefined.append(node)
            self._made[node] = zeros, _other(zeros)
            return True
        if not all(before in self._made for before in node.all_input_nodes):
            return False
        if node.target is not operator.getitem:
            _check(node)
        try:
            first = self._call(node, 0)
            changed = any(self._made[n][0] is not self._made[n][1] for n in node.all_input_nodes)
            self._made[node] = first, self._call(node, 1) if changed else first
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise GraphError(f"operator {node.target} fails: {first_line(error)}{line_of(node)}") from None
        return True

    def _call(self, node: Any, which: int) -> Any:
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: self._made[n][which])
        with torch.no_grad():
            return node.target(*args, **kwargs)


def _leaves_memory(node: Any) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and str(target).removeprefix("aten.").startswith(UNDEFINED)


def _check(node: Any) -> None:
    """Raises GraphError for what a second call wouldn't give again."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten" or target._schema.is_mutable:
        raise GraphError(f"operator {target} is not one that a stage can run{line_of(node)}")
    if draws(target, node.args, node.kwargs):
        raise GraphError(f"operator {target} draws random numbers; a stage couldn't repeat them{line_of(node)}")


def _other(zeros: Tensor) -> Tensor:
    """Values that are seen wherever they reach."""
    if zeros.is_floating_point() or zeros.is_complex():
        return torch.full_like(zeros, float("nan"))
    return torch.full_like(zeros, 1 if zeros.dtype == torch.bool else torch.iinfo(zeros.dtype).max)
