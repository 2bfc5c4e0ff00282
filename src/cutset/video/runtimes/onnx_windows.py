"""Which elements of its input an ONNX node reads: what a window is padded with, and what a resize lies between.

By the standard's formulas, in numpy, for whatever computes such nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Between", "pads_of", "resize_axis", "resize_scales", "unknown_resize"]

COORDINATES = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "asymmetric", "align_corners")

Attributes = Mapping[str, Any]
Floats = NDArray[np.float32]


class Between(NamedTuple):
    """Of each output on an axis (n,): the two places that it lies between, and the share of the second one."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    share: Floats


def pads_of(
    attributes: Attributes, sizes: Sequence[int], kernel: Sequence[int], steps: Sequence[int], gaps: Sequence[int]
) -> tuple[list[int], list[int]]:
    """What a convolution or a pool adds in front of each dimension, and behind it."""
    dims, auto = len(kernel), attributes.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", "VALID", ""):
        pads = list(attributes.get("pads", [0] * 2 * dims)) if auto != "VALID" else [0] * 2 * dims
        return pads[:dims], pads[dims:]
    found = []
    for size, window, step, gap in zip(sizes, kernel, steps, gaps, strict=True):
        found.append(max((-(-size // step) - 1) * step + (window - 1) * gap + 1 - size, 0))
    small, large = [one // 2 for one in found], [one - one // 2 for one in found]
    return (small, large) if auto == "SAME_UPPER" else (large, small)


def unknown_resize(attributes: Attributes, opset: int) -> str:
    """What of a Resize isn't known here, in words; "" where all is."""
    how, where = attributes.get("mode", "nearest"), _coordinates(attributes, opset)
    if how not in ("nearest", "linear") or where not in COORDINATES or attributes.get("antialias", 0):
        return f"it resizes by {how[:20]} and {where[:30]}, which isn't known here"
    return ""


def resize_scales(
    attributes: Attributes, shape: Sequence[int], numbers: Sequence[float], sizes: Sequence[float] | None
) -> dict[int, float]:
    """The scale of each axis that has one; `numbers` end with the scales. Where sizes are given, axes have one if their
    proportions are kept: the sizes themselves are rounded."""
    axes = [axis % len(shape) for axis in attributes.get("axes", range(len(shape)))]
    if sizes is None:
        return dict(zip(axes, numbers[-len(axes) :], strict=False))
    policy = attributes.get("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return {}
    scales = [size / shape[axis] for axis, size in zip(axes, sizes, strict=True)]
    return dict.fromkeys(axes, min(scales) if policy == "not_larger" else max(scales))


def resize_axis(attributes: Attributes, opset: int, size: int, wanted: int, scale: float | None = None) -> Between:
    """What each of `wanted` outputs of a Resize lies between on an axis of this size."""
    at = _at(_coordinates(attributes, opset), size, wanted, wanted / size if scale is None else scale)
    if attributes.get("mode", "nearest") == "nearest":
        place = np.clip(_nearest(attributes, opset, at), 0, size - 1)
        return Between(place, place, np.zeros(wanted, np.float32))
    at = np.clip(at, 0, size - 1)
    low = np.floor(at)
    first, second = (np.clip(place.astype(np.int64), 0, size - 1) for place in (low, low + 1))
    return Between(first, second, at - low)


def _coordinates(attributes: Attributes, opset: int) -> str:
    return str(attributes.get("coordinate_transformation_mode", "half_pixel" if opset >= 11 else "asymmetric"))


def _at(where: str, size: int, wanted: int, scale: float) -> Floats:
    out = np.arange(wanted, dtype=np.float32)
    if where == "asymmetric":
        at = out / np.float32(scale)
    elif where == "align_corners":
        length = scale * size
        at = out * np.float32(size - 1) / np.float32(length - 1) if wanted > 1 else np.zeros(1, np.float32)
    elif where == "pytorch_half_pixel" and wanted <= 1:
        at = np.zeros(1, np.float32)
    else:
        at = (out + np.float32(0.5)) / np.float32(scale) - np.float32(0.5)
        if where == "half_pixel_symmetric":
            at = at + np.float32(size / 2 * (1 - wanted / (scale * size)))
    return np.asarray(at, np.float32)


def _nearest(attributes: Attributes, opset: int, at: Floats) -> NDArray[np.int64]:
    mode = attributes.get("nearest_mode", "round_prefer_floor" if opset >= 11 else "floor")
    half = np.float32(0.5)
    if mode == "floor":
        found = np.floor(at)
    elif mode == "ceil":
        found = np.ceil(at)
    else:
        found = np.ceil(at - half) if mode == "round_prefer_floor" else np.floor(at + half)
    return np.asarray(found, np.int64)
