"""The tensors of a quantised module of a checkpoint, which are taken out of the table one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from cutset.errors import CheckpointError
from cutset.models.files.grouped import GroupedTensor, GroupedWeight
from cutset.models.files.tensor import ComputedTensor, Tensor

__all__ = ["SCALES", "Module", "form_of", "modules", "place_groups"]

SCALES = ("F32", "F16", "BF16")
MOST_COLUMNS = 1 << 24  # of a matrix, and rows


def form_of(name: str, bits: int, group: int, inputs: int) -> str:
    """What users call the weights of a module: its method, bits, and the columns that share a scale."""
    return f"{name} {bits} bits, " + ("a scale a row" if group == inputs else f"groups of {group}")


class Module:
    """The tensors whose names begin with `name` and a dot; `rest` has those of the whole checkpoint by name."""

    def __init__(self, name: str, rest: dict[str, Tensor]) -> None:
        self.name, self._rest = name, rest
        self.taken: list[Tensor] = []

    def wrong(self, what: str) -> NoReturn:
        """Raises CheckpointError, with the file and the module."""
        file = self.taken[0].file if self.taken else "?"
        raise CheckpointError(f"{file}: {self.name}{what}")

    def take(self, end: str, dtypes: tuple[str, ...], dims: int | None = None) -> Tensor | None:
        """A tensor of one of `dtypes` and of `dims` dimensions; None if it isn't there."""
        tensor = self._rest.pop(f"{self.name}.{end}", None)
        if tensor is None:
            return None
        self.taken.append(tensor)
        if tensor.dtype not in dtypes or (dims is not None and len(tensor.shape) != dims):
            self.wrong(f".{end} is {tensor.dtype} of shape {tensor.shape}; its format has {' or '.join(dtypes)} there"
                       + ("" if dims is None else f" of {dims} dimensions"))  # fmt: skip
        return tensor

    def need(self, end: str, dtypes: tuple[str, ...], dims: int | None = None) -> Tensor:
        """The same. Raises CheckpointError where it is missing."""
        tensor = self.take(end, dtypes, dims)
        if tensor is None:
            self.wrong(f".{end} is missing, which its format has beside {self.taken[0].name if self.taken else 'it'}")
        return tensor

    def check(self, tensor: Tensor, shape: tuple[int, ...], why: str = "") -> None:
        """Raises CheckpointError for a tensor of another shape."""
        if tensor.shape != shape:
            self.wrong(f"{tensor.name.removeprefix(self.name)} has shape {tensor.shape}, not {shape}{why}")

    def drop(self, *ends: str) -> None:
        """What nobody needs here: the scales of activations."""
        for end in ends:
            self._rest.pop(f"{self.name}.{end}", None)

    def put(self, tensor: Tensor) -> None:
        """Puts the weight into the table."""
        if tensor.name in self._rest:
            self.wrong(": there is a float weight beside the quantised one")
        self._rest[tensor.name] = tensor

    def group_of(self, inputs: int, groups: int, stated: int | None) -> int:
        """Columns that share a scale; `stated` by the configuration, -1 for a whole row."""
        if not 1 <= inputs <= MOST_COLUMNS or groups < 1 or inputs % groups:
            self.wrong(f" has {groups} groups, which don't divide its {inputs} columns")
        if stated is not None and groups != (1 if stated < 0 else -(-inputs // stated)):
            self.wrong(f" has {groups} groups of {inputs} columns; the configuration says groups of {stated}")
        if stated is not None and groups > 1 and inputs % stated:
            self.wrong(f": groups of {stated} don't divide its {inputs} columns")
        return inputs // groups

    def order_of(self, indices: Tensor | None, inputs: int, groups: int) -> NDArray[np.int32] | None:
        """Which columns lie in which group, (inputs,); None where they follow each other.

        Raises CheckpointError for groups that aren't there.
        """
        if indices is None:
            return None
        self.check(indices, (inputs,))
        places = indices.raw
        if inputs and (int(places.min()) < 0 or int(places.max()) >= groups):
            self.wrong(f"{indices.name.removeprefix(self.name)} names groups that aren't there; there are {groups}")
        if np.array_equal(places, np.arange(inputs) // (inputs // groups)):
            return None
        return places.astype(np.int32)


def modules(rest: dict[str, Tensor], end: str, dtypes: tuple[str, ...] = ()) -> Iterator[Module]:
    """The modules that have a tensor `end`, of one of `dtypes` if any are given."""
    for name in [name for name in rest if name.endswith(f".{end}")]:
        if not dtypes or rest[name].dtype in dtypes:
            yield Module(name.removesuffix(f".{end}"), rest)


def place_groups(
    module: Module,
    shape: tuple[int, int],
    form: str,
    weight: Callable[[], GroupedWeight],
    places: NDArray[np.int32] | None,
) -> None:
    """Puts a weight into the table, which `weight` reads with columns in the file's order, (outputs, inputs), and a
    group of scales for each `inputs // groups` of them; `places` says in which group a column lies, if in another."""
    name, sources = f"{module.name}.weight", tuple(module.taken)
    if places is None:
        module.put(GroupedTensor(name, sources[0].file, shape, form, weight, sources))
        return
    order = np.argsort(places, kind="stable").astype(np.int32)
    counts = np.bincount(places)
    if (counts == counts[0]).all() and counts[0] * len(counts) == shape[1]:

        def gathered() -> GroupedWeight:
            found = weight()
            codes = np.ascontiguousarray(found.codes[:, order])
            return GroupedWeight(
                codes, found.bits, found.group, found.scales, found.zeros, found.minima, found.levels, order
            )

        module.put(GroupedTensor(name, sources[0].file, shape, form, gathered, sources))
        return

    def floats() -> NDArray[np.float32]:  # groups of several sizes have no form of their own
        found = weight()
        values = np.empty(shape, np.float32)
        scales = found.scales.float32()
        for group in range(scales.shape[1]):
            columns = np.flatnonzero(places == group)
            part = found.codes[:, columns].astype(np.float32)
            part -= found.zeros if isinstance(found.zeros, int) else found.zeros[:, group, None].astype(np.float32)
            part *= scales[:, group, None]
            if found.minima is not None:
                part += found.minima.float32()[:, group, None]
            values[:, columns] = part
        return values

    module.put(ComputedTensor(name, shape, "F32", sources, floats))
