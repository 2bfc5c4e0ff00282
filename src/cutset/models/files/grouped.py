"""Weights of few bits as files have them: codes, and a scale for each group of a row's columns. Never rounded again.

    value[o, i] = (level(codes[o, i]) - zeros[o, g]) * scales[o, g] + minima[o, g],   g = i // group

in float32, each operation rounded by itself, in this order; what a form doesn't have is left out. Every format of
quantised weights becomes this: its readers cut codes, scales, zero points and minima out of the file's bytes, and the
kernels pack them (cutset.kernels.reference_grouped). The formats' own rules are cited where they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.models.files.tensor import Tensor

__all__ = ["CODE_BITS", "GroupScales", "GroupedTensor", "GroupedWeight", "holds_codes"]

CODE_BITS = (4, 5, 6, 8)  # that a code may have; codes of 2 and 3 bits are kept in 4
GROUPS = (16, 256)  # the least and the most columns that share a scale, except where a whole row shares one
ROWS = 256  # made floats of at a time

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class GroupScales:
    """Factors of groups: (outputs, groups). Where files have them in two levels, a group's is values * steps."""

    values: NDArray[np.float16] | Floats  # (outputs, groups), or (outputs, blocks) where there are steps
    steps: NDArray[np.int8] | NDArray[np.uint8] | None = None  # (outputs, groups): a block's groups follow each other

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, groups)"""
        outputs, groups = (self.values if self.steps is None else self.steps).shape
        return outputs, groups

    def float32(self, rows: slice = slice(None)) -> Floats:
        """The factors of some outputs, (outputs, groups); a product of two levels is exact for float16 values."""
        values = self.values[rows].astype(np.float32)
        if self.steps is None:
            return values
        steps = self.steps[rows].astype(np.float32)
        product: Floats = np.repeat(values, steps.shape[1] // values.shape[1], axis=1) * steps
        return product

    def rows(self, rows: Any) -> GroupScales:
        """Those of some outputs, in the order given."""
        return GroupScales(self.values[rows], None if self.steps is None else self.steps[rows])


@dataclass(frozen=True, slots=True)
class GroupedWeight:
    """A matrix (outputs, inputs) of codes; the module says what they stand for."""

    codes: NDArray[np.uint8]  # (outputs, inputs), each below 2**bits
    bits: int  # of a code: one of CODE_BITS
    group: int  # columns that share a scale; divides the inputs
    scales: GroupScales
    zeros: NDArray[np.uint8] | int = 0  # (outputs, groups), or one for all: subtracted from the codes
    minima: GroupScales | None = None
    levels: NDArray[np.int8] | None = None  # (2**bits,): the integers that codes stand for, instead of themselves
    order: NDArray[np.int32] | None = None  # (inputs,): which of x's columns the column i of the codes multiplies

    def __post_init__(self) -> None:
        outputs, inputs = self.codes.shape
        if self.bits not in CODE_BITS or self.group < 1 or inputs % self.group:
            raise ValueError(f"no form has {self.bits} bits and groups of {self.group} of {inputs} columns")
        groups = (outputs, inputs // self.group)
        shapes = [self.scales.shape, *([self.minima.shape] if self.minima is not None else [])]
        shapes += [] if isinstance(self.zeros, int) else [self.zeros.shape]
        if any(shape != groups for shape in shapes):
            raise ValueError(f"factors of shapes {shapes} for {groups} groups")

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs)"""
        outputs, inputs = self.codes.shape
        return outputs, inputs

    def integers(self, rows: Any = slice(None)) -> NDArray[np.int16]:
        """What the codes of some outputs stand for, less their zero points: int16 (outputs, inputs)."""
        codes = self.codes[rows]
        levels: NDArray[np.int16] = codes.astype(np.int16)
        if self.levels is not None:
            levels = self.levels.astype(np.int16)[codes]
        if isinstance(self.zeros, int):
            levels -= np.int16(self.zeros)
        else:
            levels -= np.repeat(self.zeros[rows].astype(np.int16), self.group, axis=1)
        return levels

    def float32(self) -> Floats:
        """The values (outputs, inputs), with x's own order of columns."""
        values = np.empty(self.shape, np.float32)
        for first in range(0, len(values), ROWS):
            rows = slice(first, first + ROWS)
            part = self.integers(rows).astype(np.float32)
            part *= np.repeat(self.scales.float32(rows), self.group, axis=1)
            if self.minima is not None:
                part += np.repeat(self.minima.float32(rows), self.group, axis=1)
            values[rows] = part
        if self.order is None:
            return values
        placed = np.empty_like(values)
        placed[:, self.order] = values
        return placed

    def take(self, rows: Any) -> GroupedWeight:
        """Some outputs, in the order given (a slice or indices)."""
        zeros = self.zeros if isinstance(self.zeros, int) else self.zeros[rows]
        minima = None if self.minima is None else self.minima.rows(rows)
        return GroupedWeight(
            self.codes[rows], self.bits, self.group, self.scales.rows(rows), zeros, minima, self.levels, self.order
        )


class GroupedTensor(Tensor):
    """A tensor of a file that holds codes of few bits: `grouped` cuts them out anew each time, so that nobody keeps
    them unpacked. To whoever asks for floats it is a float tensor, whose values are computed each time."""

    __slots__ = ("_read", "_sources", "form")

    def __init__(
        self,
        name: str,
        file: Path,
        shape: tuple[int, int],
        form: str,
        read: Callable[[], GroupedWeight],
        sources: tuple[Tensor, ...] = (),
    ) -> None:
        """form: what users call it, "Q4_K" or "GPTQ 4 bits, groups of 128". sources: what it is read from."""
        self.name, self.file, self.dtype, self.shape = name, file, "F32", shape
        self.form, self._read, self._sources = form, read, sources

    def grouped(self) -> GroupedWeight:
        """The codes, cut out of the file's bytes."""
        return self._read()

    @property
    def sources(self) -> tuple[Tensor, ...]:
        return self._sources

    @property
    def raw(self) -> Floats:  # type: ignore[override]
        """The values in float32, computed anew each time."""
        values = self.grouped().float32()
        values.flags.writeable = False
        return values

    @property
    def nbytes(self) -> int:
        """Bytes of the file that it is read from."""
        return sum(int(source.raw.nbytes) for source in self._sources)

    def forget(self) -> None:
        for source in self._sources:
            source.forget()


def holds_codes(tensors: Mapping[str, Tensor]) -> bool:
    """Some of the tensors are codes of few bits."""
    return any(isinstance(tensor, GroupedTensor) for tensor in tensors.values())
