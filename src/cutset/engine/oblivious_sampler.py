"""Draws a token without an address or a branch that depends on the logits: for machines on which others see caches.

The same tokens come out as of `sampler`: of the same float64 numbers, by the same rules. What is wanted of a row (its
largest element, the k-th largest, the smallest set that weighs so much) is found by passes over all of it, as many for
every row: thresholds by halving the range of a float's bits, so that no element is moved by what it is. Sums of top_p
are in another order than there; where a set weighs top_p to the last bit, the two may differ by a token.

numpy's loops over whole arrays read every element in order. How long `exp` takes may depend on elements that are zero
or subnormal after it; which they are isn't told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw_obliviously", "first_largest", "kept_weights"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Keys = NDArray[np.unsignedinteger[Any]]


def first_largest(values: NDArray[np.floating[Any]]) -> int:
    """The index of the largest of the values (n,), the lowest of equal ones; -1 where one is NaN, or the largest isn't
    finite."""
    top = values.max()  # NaN, if there is one
    places = np.where(values == top, np.arange(len(values)), len(values))
    return (int(places.min()) + 1) * int(np.isfinite(top)) - 1


def draw_obliviously(
    logits: NDArray[np.floating[Any]],
    number: float,
    *,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> int:
    """The token for logits (vocab,), of which -inf is never drawn, and a number in [0, 1); the largest one's where the
    temperature is 0, and -1 as for `first_largest`."""
    best = first_largest(logits)
    if temperature == 0 or best < 0:
        return best
    sums = np.cumsum(kept_weights(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p))
    return min(int(np.count_nonzero(sums <= number * sums[-1])), len(sums) - 1)


def kept_weights(
    logits: NDArray[np.floating[Any]], *, temperature: float, top_k: int, top_p: float, min_p: float
) -> Floats:
    """What each token (vocab,) weighs, 0 where it may not be drawn: `sampler.kept_tokens` without leaving any out."""
    keys = _keys(logits)
    scaled = logits.astype(np.float64)
    scaled -= scaled.max()
    with np.errstate(over="ignore", under="ignore"):
        scaled /= temperature
        weights = np.exp(scaled)
    if 0 < top_k < len(logits):
        least = _threshold(keys, lambda flags: np.count_nonzero(flags) >= top_k)
        weights = np.where(_from(keys, least, top_k), weights, 0.0)
    if min_p > 0:
        weights = np.where(weights >= min_p, weights, 0.0)
    if top_p < 1:
        weights = np.where(_nucleus(keys, weights / weights.sum(), top_p), weights, 0.0)
    return weights


def _nucleus(keys: Keys, shares: Floats, top_p: float) -> Flags:
    """Which are in the smallest set of the largest that weighs `top_p`."""
    wanted = min(top_p, float(shares.sum()))
    least = _threshold(keys, lambda flags: float(np.where(flags, shares, 0.0).sum()) >= wanted)
    above = keys > least
    missing = top_p - np.where(above, shares, 0.0).sum()
    each = np.where(keys == least, shares, 0.0).max()  # of those that are as likely as the last one: at least one
    return _from(keys, least, np.count_nonzero(above) + np.maximum(np.ceil(missing / each), 1.0))


def _from(keys: Keys, least: np.unsignedinteger[Any], count: float) -> Flags:
    """The `count` largest, the last of which is `least`, the lowest places of equal ones."""
    above, equal = keys > least, keys == least
    kept: Flags = above | (equal & (np.cumsum(equal) <= count - np.count_nonzero(above)))
    return kept


def _keys(values: NDArray[np.floating[Any]]) -> Keys:
    """Whole numbers in the order of floats of 32 or 64 bits; -0.0 is 0.0."""
    kind: Any = np.uint32 if values.dtype == np.float32 else np.uint64
    bits: Keys = (values + values.dtype.type(0)).view(kind)
    negative: Keys = bits >> kind(8 * bits.itemsize - 1)
    return np.bitwise_xor(bits, (kind(0) - negative) | kind(1 << (8 * bits.itemsize - 1)))


def _threshold(keys: Keys, enough: Callable[[Flags], Any]) -> np.unsignedinteger[Any]:
    """The largest key for which `enough` of those that aren't below it; a pass for each of its bits."""
    kind, found = keys.dtype.type, 0
    for bit in reversed(range(8 * keys.itemsize)):
        found |= int(enough(keys >= kind(found | 1 << bit))) << bit
    return kind(found)
