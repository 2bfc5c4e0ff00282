"""A module and its exported graph on real tensors: what an exporter that computes nothing can't see.

How values lie in memory (fake tensors of torch's exporter differ in places from what kernels make of real ones),
whether a call leaves something behind for the next one, and whether memory that nobody wrote to reaches an output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.utils._pytree import tree_leaves

from cutset.errors import GraphError, first_line
from cutset.partition.graph import Graph
from cutset.partition.node import ITEM_BYTES, Node, Value
from cutset.video.imports.state import Attributes, same_bits
from cutset.video.torch_stage import TorchStage, lay, layout_of

__all__ = ["NO_STATE", "Trial", "call", "same_bits"]

NEAR = 1e-3  # of an output's largest element: what graph and module may differ by where kernels round otherwise
FEW = 0.01  # of the elements of an output of whole numbers, of which rounding may change some
LARGEST = 1e6  # of an example's floats: above, it is taken for memory that was never written to
Layout = tuple[tuple[int, ...] | None, int, bool]  # strides, offset and `requires_grad` of a value
NO_STATE = "and a stage keeps no state of its own"


def call(module: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The tensors that a module returns, in order. It gets copies that lie in memory as the inputs do."""
    made = [leaf for leaf in tree_leaves(module(*(_copy(tensor) for tensor in inputs))) if isinstance(leaf, Tensor)]
    if any(isinstance(tensor, FakeTensor) for tensor in made):  # the exporter's call left one for this call
        raise GraphError(f"a call leaves a tensor outside of it for the next one, {NO_STATE}")
    return [_copy(tensor) for tensor in made]


class Trial:
    """Of one module, in inference mode. `begin` is called before it is exported, `settle` after."""

    def __init__(self, module: nn.Module, inputs: Sequence[Tensor], start: Attributes) -> None:
        """`start`: the attributes as they are before anything was called."""
        self._module, self._given, self._start = module, list(inputs), start
        self._inputs = [tensor if _shows(tensor) else _made_up(tensor) for tensor in inputs]
        self._first: list[Tensor] | None = None

    @staticmethod
    def possible(module: nn.Module, inputs: Sequence[Tensor]) -> bool:
        """Whether there is something to compute with. Networks that say so needn't be tried: they are `PURE`."""
        tensors = [*inputs, *module.parameters(), *module.buffers()]
        if any(tensor.device.type == "meta" for tensor in tensors):
            return False
        return not getattr(module, "PURE", False) or any(layout_of(tensor) != (None, 0) for tensor in tensors)

    def begin(self) -> None:
        """Calls it once, so that tables which its first call makes, here or in a cache, are none of the exporter's."""
        try:
            self._first = call(self._module, self._inputs)
        except Exception:  # values that we made up may be none that it takes
            self._inputs = self._given
            with suppress(Exception):  # the exporter says more about it
                self._first = call(self._module, self._given)

    def settle(self, graph: Graph, tensors: Mapping[str, Tensor], otherwise: Mapping[str, Tensor], where: str) -> Graph:
        """The graph with its values as they really lie in memory.

        `otherwise` has other tensors for what was made out of memory that nobody wrote to, at the lines `where`.
        Raises GraphError for a module with state, and for one that gives other results than its graph.
        """
        before = self._first if self._first is not None else self._called(self._inputs)
        others = [_made_up(tensor, seed=1) for tensor in self._inputs]
        try:
            call(self._module, others)
        except Exception:  # they may be none that it takes
            others = self._inputs
        other = Attributes(self._module)
        after = self._called(self._inputs)
        if changed := other.changed(loose=True):
            raise GraphError(f"a call changes its attribute {_several(changed)}, {NO_STATE}")
        layouts, made = self._run(graph, tensors)
        if otherwise and not same_bits(made, self._run(graph, {**tensors, **otherwise})[1]):
            raise GraphError(f"an output depends on memory that torch.empty gave it and nothing wrote to{where}")
        kept = self._start.changed()
        if kept and same_bits(before, after):  # made at the first call and then used: out of nothing, or of a picture?
            self._start.restore()
            self._called(others)
            after = self._called(self._inputs)
        if not same_bits(before, after):
            why = f" (a call changes its attribute {_several(kept)})" if kept else ""
            raise GraphError(
                f"called again with the same picture it gives another result{why}; a stage keeps no state from call to "
                "call and draws no random numbers"
            )
        same = same_bits if all(tensor.device.type == "cpu" for tensor in made) else _near
        if not same(made, after):
            raise GraphError(
                "its exported graph gives other results than it does itself: what it computes may depend on something "
                "that the exporter doesn't see"
            )
        return _laid(graph, layouts)

    def _called(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        try:
            return call(self._module, inputs)
        except GraphError:
            raise
        except Exception as error:
            raise GraphError(f"a call of it fails with {type(error).__name__}: {first_line(error)}") from error

    def _run(self, graph: Graph, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Layout], list[Tensor]]:
        """How each value lies in memory, and the outputs."""
        layouts = {}
        bounds = {name: node for node in graph.nodes if node.op.startswith("aten.as_strided") for name in node.reads}

        def look(value: Value, tensor: Tensor) -> None:
            if tuple(tensor.shape) != value.shape or tensor.dtype != getattr(torch, value.dtype):
                raise GraphError(f"{value.name} is another tensor than it was when the module was exported")
            if value.name in bounds and tensor.untyped_storage().nbytes() != tensor.nbytes:
                raise GraphError(f"{bounds[value.name].name} may read more of memory than {value.name}, a view, has")
            layouts[value.name] = (*layout_of(tensor), tensor.requires_grad)

        inputs = {value.name: tensor for value, tensor in zip(graph.inputs, self._inputs, strict=True)}
        stage = TorchStage(graph, range(len(graph.nodes)), tensors, self._inputs[0].device if self._inputs else "cpu")
        try:
            made = {**inputs, **stage.forward(inputs, look=look)}
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            done = [node.name for node in graph.nodes if all(value.name in layouts for value in node.made)]
            last = f" after {done[-1]}" if done else ""
            raise GraphError(f"its graph can't be run{last}: {first_line(error)}") from None
        return layouts, [made[name] for name in graph.outputs]


def _laid(graph: Graph, layouts: Mapping[str, Layout]) -> Graph:
    def one(value: Value) -> Value:
        strides, offset, requires_grad = layouts[value.name]
        return replace(value, strides=strides, offset=offset, requires_grad=requires_grad)

    def node(before: Node) -> Node:
        return replace(before, outputs=tuple(value and one(value) for value in before.outputs))

    return replace(graph, nodes=tuple(map(node, graph.nodes)))


def _several(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _copy(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    fresh = tensor.clone(memory_format=torch.contiguous_format)
    name = str(tensor.dtype).removeprefix("torch.")
    return lay(fresh, Value("", tuple(tensor.shape), name, *layout_of(tensor))) if name in ITEM_BYTES else fresh


def _shows(tensor: Tensor) -> bool:
    """Whether an example has values that a result could depend on; zeros and memory that nobody wrote to have none."""
    if tensor.dtype == torch.bool or not tensor.numel() or tensor.is_complex():
        return True
    low, high = (float(bound) for bound in torch.aminmax(tensor.detach()))
    if not tensor.is_floating_point():
        return low < high or tensor.dtype != torch.uint8
    return low < high and max(-low, high) < LARGEST


def _made_up(tensor: Tensor, seed: int = 0) -> Tensor:
    """Other values like these, in the same place in memory: of the same range where it has one."""
    shape, generator = tuple(tensor.shape), torch.Generator().manual_seed(seed)
    if tensor.is_floating_point():
        low, high = (float(bound) for bound in torch.aminmax(tensor.detach())) if tensor.numel() else (0.0, 0.0)
        if not (low < high and max(-low, high) < LARGEST):
            low, high = 0.0, 1.0
        fresh = torch.rand(shape, generator=generator) * (high - low) + low
    elif tensor.dtype in (torch.uint8, torch.bool):
        fresh = torch.randint(0, 256 if tensor.dtype == torch.uint8 else 2, shape, generator=generator)
    else:
        fresh = tensor.detach().flip(tuple(range(tensor.dim())))  # they may be numbers of something
    fresh = fresh.to(tensor.dtype).to(tensor.device)
    return lay(fresh, Value("", shape, str(tensor.dtype).removeprefix("torch."), *layout_of(tensor)))


def _near(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return len(one) == len(other) and all(map(_near_each, one, other))


def _near_each(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point():
        return int((one != other).sum()) <= max(1.0, FEW * one.numel())
    a, b = one.double(), other.double()
    same = (a == b) | (a.isnan() & b.isnan())
    apart = torch.where(same, 0.0, (a - b).abs())
    largest = float(torch.where(b.isfinite(), b.abs(), 0.0).max()) if b.numel() else 0.0
    limit = max(NEAR, 16 * torch.finfo(one.dtype).eps) * largest
    return not bool((~(apart <= limit)).any())
