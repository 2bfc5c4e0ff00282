"""Grouped weights (cutset.models.files.grouped) as the kernels multiply them, native or in numpy."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.kernels import native
from cutset.kernels.reference_grouped import grouped_linear, span_of
from cutset.models.files.grouped import GroupedWeight, GroupScales

__all__ = ["ACTIVATION_BITS", "multiply", "native_linears"]

ACTIVATION_BITS = 12  # of a row: 8 cost twenty times the quality that 4-bit weights leave

Floats = NDArray[np.float32]


def multiply(weight: GroupedWeight, rows: Floats) -> Floats:
    """rows (n, inputs) . weight^T, (n, outputs), in numpy: the slow twin of native.LinearGrouped."""
    span = span_of(weight.group, weight.shape[1])
    scales, minima = (_spread(each, weight, span) for each in (weight.scales, weight.minima))
    assert scales is not None
    return grouped_linear(rows, weight.integers(), span, scales, minima, weight.order, ACTIVATION_BITS)


def native_linears(weights: list[GroupedWeight], pool: native.Pool) -> tuple[native.LinearGrouped, ...]:
    """The matrices of a site, stacked: neighbours of the same form in one. Raises ValueError for what can't be."""
    return tuple(_linear(list(run), pool) for _, run in groupby(weights, _form))


def _spread(factors: GroupScales | None, weight: GroupedWeight, span: int) -> Floats | None:
    """(outputs, spans), in float32."""
    return None if factors is None else _by_span(factors.float32(), weight, span)


def _by_span(values: NDArray[Any], weight: GroupedWeight, span: int) -> NDArray[Any]:
    """Values of groups (outputs, groups) as values of spans, of which a long group has several."""
    spans = -(-weight.group // span)
    return values if spans == 1 else np.repeat(values, spans, axis=1)


def _kind(factors: GroupScales | None) -> tuple[str, int, str] | None:
    """How factors are kept: their kind, how many blocks there are, the type of their steps."""
    if factors is None:
        return None
    kind = "float16" if factors.values.dtype == np.float16 else "float32"
    if kind == "float32" and not (np.ascontiguousarray(factors.values).view(np.uint32) & 0xFFFF).any():
        kind = "bfloat16"
    return kind, factors.values.shape[1], "" if factors.steps is None else factors.steps.dtype.name


def _form(weight: GroupedWeight) -> tuple[Any, ...]:
    """What matrices must have in common to be one."""
    arrays = (None if each is None else each.tobytes() for each in (weight.levels, weight.order))
    zero = weight.zeros if isinstance(weight.zeros, int) else None
    return weight.bits, weight.group, zero, _kind(weight.scales), _kind(weight.minima), *arrays


def _linear(weights: list[GroupedWeight], pool: native.Pool) -> native.LinearGrouped:
    first = weights[0]
    span = span_of(first.group, first.shape[1])

    def factors(given: GroupScales | None, weight: GroupedWeight) -> tuple[NDArray[Any], str, NDArray[Any] | None]:
        assert given is not None
        kind = _kind(given)
        assert kind is not None
        values = np.ascontiguousarray(given.values)
        if kind[0] == "float16":
            values = values.view(np.uint16)
        elif kind[0] == "bfloat16":
            values = (values.view(np.uint32) >> 16).astype(np.uint16)
        steps = None if given.steps is None else np.ascontiguousarray(_by_span(given.steps, weight, span))
        return values, kind[0], steps

    zeros = None
    if not isinstance(first.zeros, int):
        zeros = [np.ascontiguousarray(_by_span(np.asarray(one.zeros), one, span)) for one in weights]
    return native.LinearGrouped(
        [np.ascontiguousarray(one.codes) for one in weights],
        first.bits,
        span,
        [factors(one.scales, one) for one in weights],
        None if first.minima is None else [factors(one.minima, one) for one in weights],
        zeros,
        first.zeros if isinstance(first.zeros, int) else 0,
        None if first.levels is None else np.ascontiguousarray(first.levels),
        None if first.order is None else np.ascontiguousarray(first.order, np.int32),
        pool,
    )
