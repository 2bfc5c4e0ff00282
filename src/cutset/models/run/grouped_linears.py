"""Weights as the kernels multiply them, native or in numpy: grouped ones (cutset.models.files.grouped) of a file as it
has them (`stored`), float ones that are rounded to the nearest when they are loaded (`int8`, `int4`), and floats, which
keep the precision that they came in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import CheckpointError
from cutset.kernels import native
from cutset.kernels.reference_grouped import grouped_linear, quantize_groups, span_of
from cutset.models.files.grouped import GroupedTensor, GroupedWeight, GroupScales
from cutset.models.files.tensor import HALVES, Tensor
from cutset.models.spec import DecoderSpec, Site
from cutset.models.stages import stage_sites

__all__ = [
    "ACTIVATION_BITS",
    "GROUPED",
    "GroupedLinears",
    "multiply",
    "native_linears",
    "runs_grouped",
    "site_weights",
]

ACTIVATION_BITS = 12  # of a row: with 8 the activations would cost more quality than the weights do

Floats = NDArray[np.float32]
# (weight, bits, group, minima): codes, scales, minima or None, as reference_grouped.quantize_groups has them
Quantize = Callable[[Floats, int, int, bool], tuple[NDArray[np.uint8], Floats, Floats | None]]


@dataclass(frozen=True, slots=True)
class Rounding:
    """How float weights are rounded: `minima` for groups that needn't lie around zero."""

    bits: int
    groups: tuple[int, ...]  # columns of a group: the first that divides a row
    minima: bool


# Groups of 4 bits are as long as OpenVINO's, and with the head in 8 as far from float32; half as long they cost 7 % of
# one row's rate, and 30 % of many rows'. Longer ones of 8 bits would bring 4 to 9 %.
ROUNDINGS = {"int8": Rounding(8, (64, 32, 16), False), "int4": Rounding(4, (64, 32, 16), True)}
GROUPED = ("stored", *ROUNDINGS)  # dtypes


def runs_grouped(dtype: str, tensors: Mapping[str, Tensor]) -> bool:
    """The products of this dtype have grouped weights. Those of an integer checkpoint in `int8` have a scale a row."""
    return dtype in GROUPED and not any(tensor.dtype == "I8" for tensor in tensors.values())


def site_weights(
    spec: DecoderSpec,
    tensors: Mapping[str, Tensor],
    dtype: str,
    site: tuple[Site, int, int],
    quantize: Quantize = quantize_groups,
) -> list[GroupedWeight | Tensor]:
    """The matrices of a site, (outputs, inputs) each: in `float32` all are floats, in `stored` those that aren't codes.

    Raises CheckpointError for weights that can't be quantised.
    """
    found: list[GroupedWeight | Tensor] = []
    # Every token goes through the head, which loses most: files of 4 bits keep it at 8 or so, too.
    how = ROUNDINGS.get("int8" if site[0] == "lm_head" else dtype)
    for name in spec.site_tensors(*site):
        tensor = tensors[name]
        if dtype == "stored" and isinstance(tensor, GroupedTensor):
            found.append(tensor.grouped())
            continue
        if how is None or dtype in ("stored", "float32"):
            found.append(tensor)
            continue
        try:
            found.append(_rounded(np.ascontiguousarray(tensor.float32()), how, quantize))
        except ValueError as error:
            raise CheckpointError(f"{tensor.file}: {name} can't be quantised: {error}") from None
    return found


def _rounded(weight: Floats, how: Rounding, quantize: Quantize) -> GroupedWeight:
    inputs = weight.shape[1]
    group = next((size for size in how.groups if inputs % size == 0), inputs)
    codes, scales, minima = quantize(weight, how.bits, group, how.minima)
    zero = 0 if how.minima else 1 << (how.bits - 1)
    return GroupedWeight(
        codes, how.bits, group, GroupScales(scales), zero, None if minima is None else GroupScales(minima)
    )


class GroupedLinears:
    """The products of grouped weights in numpy: the slow twin of the native ones. See cutset.models.run.decoder."""

    def __init__(
        self, spec: DecoderSpec, tensors: Mapping[str, Tensor], dtype: str, layers: range | None = None
    ) -> None:
        self._weights = {
            site: [
                one.float32() if isinstance(one, Tensor) else one for one in site_weights(spec, tensors, dtype, site)
            ]
            for site in stage_sites(spec, layers)
        }

    def __call__(self, site: Site, layer: int, expert: int, rows: Floats) -> Floats:
        parts = self._weights[site, layer, expert]
        found = [multiply(one, rows) if isinstance(one, GroupedWeight) else rows @ one.T for one in parts]
        return found[0] if len(found) == 1 else np.hstack(found)


def multiply(weight: GroupedWeight, rows: Floats) -> Floats:
    """rows (n, inputs) . weight^T, (n, outputs), in numpy: the slow twin of native.LinearGrouped."""
    span = span_of(weight.group, weight.shape[1])
    scales, minima = (_spread(each, weight, span) for each in (weight.scales, weight.minima))
    assert scales is not None
    return grouped_linear(rows, weight.integers(), span, scales, minima, weight.order, ACTIVATION_BITS)


def native_linears(
    weights: Sequence[GroupedWeight | Tensor], pool: native.Pool
) -> tuple[native.LinearGrouped | native.LinearF32, ...]:
    """The matrices of a site, stacked: neighbours of the same form in one. Raises ValueError for what can't be."""
    return tuple(_linear(list(run), pool) for _, run in groupby(weights, _form))


def _spread(factors: GroupScales | None, weight: GroupedWeight, span: int) -> Floats | None:
    """(outputs, spans), in float32."""
    return None if factors is None else _by_span(factors.float32(), weight, span)


def _by_span(values: NDArray[Any], weight: GroupedWeight, span: int) -> NDArray[Any]:
    """Values of groups (outputs, groups) as values of spans, of which a long group has several."""
    spans = -(-weight.group // span)
    return values if spans == 1 else np.repeat(values, spans, axis=1)


def _form(weight: GroupedWeight | Tensor) -> tuple[Any, ...]:
    """What matrices must have in common to be one."""
    if isinstance(weight, Tensor):
        return (weight.dtype if weight.dtype in HALVES else "F32",)
    arrays = (None if each is None else each.tobytes() for each in (weight.levels, weight.order))
    zero = weight.zeros if isinstance(weight.zeros, int) else None
    factors = (
        None
        if each is None
        else (each.values.dtype.name, each.values.shape[1], None if each.steps is None else each.steps.dtype.name)
        for each in (weight.scales, weight.minima)
    )
    return weight.bits, weight.group, zero, *factors, *arrays


def _linear(run: list[GroupedWeight | Tensor], pool: native.Pool) -> native.LinearGrouped | native.LinearF32:
    weights = [one for one in run if isinstance(one, GroupedWeight)]
    if not weights:
        return native.LinearF32([one.floats() for one in run if isinstance(one, Tensor)], pool)
    first = weights[0]
    span = span_of(first.group, first.shape[1])

    def factors(given: GroupScales | None, weight: GroupedWeight) -> tuple[NDArray[Any], NDArray[Any] | None]:
        assert given is not None
        values = np.ascontiguousarray(given.values)
        steps = None if given.steps is None else np.ascontiguousarray(_by_span(given.steps, weight, span))
        return values.view(np.uint16) if values.dtype == np.float16 else values, steps

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
