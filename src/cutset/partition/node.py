"""What a graph is made of: values, and nodes that read some and make others. Knows no torch."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable
from dataclasses import dataclass
from functools import cached_property

__all__ = [
    "ALIGNMENT",
    "ITEM_BYTES",
    "Argument",
    "Keyword",
    "Node",
    "Read",
    "Value",
    "Weight",
    "free_name",
    "short_name",
    "strides_of",
]

ALIGNMENT = 64  # bytes; where torch begins what it allocates

ITEM_BYTES = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
}

# Operators that are better known by other names.
SHORT = {"_native_batch_norm_legit_no_training": "batch_norm", "_to_copy": "to", "_softmax": "softmax"}


def short_name(op: str) -> str:
    """`conv2d` of `aten.conv2d.default`, `Conv` of `onnx.Conv.17`."""
    name = op.split(".")[1] if op.startswith(("aten.", "onnx.")) else op
    return SHORT.get(name, name)


def free_name(name: str, taken: Container[str]) -> str:
    """The name, with a number where it is taken."""
    found, number = name, 2
    while found in taken:
        found, number = f"{name}#{number}", number + 1
    return found


@dataclass(frozen=True)
class Value:
    """A tensor that a node makes, a graph takes, or a network has as a weight."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # a key of ITEM_BYTES
    strides: tuple[int, ...] | None = None  # of the whole network's tensor, in elements; None: row-major
    offset: int = 0  # elements between a boundary of ALIGNMENT bytes and the first one
    requires_grad: bool = False  # a parameter, or a view of one: torch chooses kernels by it, without gradients too
    bounded: bool = False  # of uint8, (n,): every item has so many bytes or fewer, and they travel as they are

    @property
    def nbytes(self) -> int:
        """Bytes of its elements, without gaps between them."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    @property
    def order(self) -> tuple[int, ...] | None:
        """The dimensions from the slowest to the fastest, of a dense tensor that isn't row-major; None for others."""
        if self.strides is None:
            return None
        order = tuple(sorted(range(len(self.shape)), key=lambda d: (-self.strides[d], d)))  # type: ignore[index]
        return order if self.strides == strides_of(self.shape, order) else None

    @property
    def room(self) -> int:
        """The elements of the memory in which it lies, with the gaps between them."""
        if not math.prod(self.shape):
            return 0
        strides = self.strides or strides_of(self.shape)
        return self.offset + 1 + sum((size - 1) * stride for size, stride in zip(self.shape, strides, strict=True))

    @property
    def memory(self) -> int:
        """The bytes that a copy of it takes: its own, or those of the memory with its gaps if they are more."""
        return max(self.nbytes, self.room * ITEM_BYTES[self.dtype])


def strides_of(shape: tuple[int, ...], order: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """The strides of a dense tensor whose dimensions lie in this order, the slowest first; in elements."""
    strides, step = [0] * len(shape), 1
    for d in reversed(order if order is not None else range(len(shape))):
        strides[d] = step
        step *= max(shape[d], 1)
    return tuple(strides)


@dataclass(frozen=True)
class Read:
    """An argument: the value of this name."""

    name: str


@dataclass(frozen=True)
class Weight:
    """An argument: the parameter, buffer or constant of this name."""

    name: str


@dataclass(frozen=True)
class Keyword:
    """An argument that torch names: a dtype, layout or memory format, or the device on which the stage runs."""

    kind: str  # dtype, layout, memory_format, device
    name: str  # "" for the device


Argument = Read | Weight | Keyword | bool | int | float | str | tuple["Argument", ...] | None


@dataclass(frozen=True)
class Node:
    """One operator. It makes one value, or as many as `outputs` has; None stands for one that nobody reads."""

    name: str  # unique: the module's path where it is the module's only node, else path, operator and number
    path: str  # of the module, as `features.0`; "" for what the outermost one does itself
    op: str  # torch's name of the operator and its overload, as `aten.conv2d.default`; ONNX's: `onnx.Conv.17`
    args: tuple[Argument, ...]
    kwargs: tuple[tuple[str, Argument], ...]
    outputs: tuple[Value | None, ...]
    several: bool  # the operator returns a tuple or a list
    flops: int  # a multiply-add counts as two
    state: int = 0  # bytes that whoever runs it keeps from item to item, beside its weights

    @property
    def made(self) -> tuple[Value, ...]:
        """The values that somebody reads."""
        return tuple(value for value in self.outputs if value is not None)

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """The names of the values that it takes, each once, in order."""
        return tuple(dict.fromkeys(a.name for a in self._flat() if isinstance(a, Read)))

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """The names of the weights that it takes, each once, in order."""
        return tuple(dict.fromkeys(a.name for a in self._flat() if isinstance(a, Weight)))

    def _flat(self) -> Iterable[Argument]:
        waiting: list[Argument] = [tuple(value for _, value in self.kwargs), self.args]
        while waiting:
            argument = waiting.pop()
            if isinstance(argument, tuple):
                waiting.extend(reversed(argument))
            else:
                yield argument
