"""The delta codec's kernels in numpy: what the native ones compute, written to be read.

A mask has a bit for each element, the first one lowest in the first byte, and zeros after the last. Values are the
bytes of the elements that changed, in order. Elements of 1, 2, 4 or 8 bytes are compared as bits: -0.0 isn't 0.0, and a
NaN is itself. Shapes don't matter here, only that arrays are contiguous.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["delta_compare", "delta_decode", "delta_encode", "delta_gather", "mask_nest", "mask_unnest", "nested_room"]

Tensor = np.ndarray[Any, Any]
Bytes = NDArray[np.uint8]


def delta_encode(held: Tensor | None, fresh: Tensor, mask: Bytes, values: Bytes, threshold: float = 0.0) -> int:
    """What changed from `held` to `fresh`; held takes it over. Without `held` (None): from zeros.

    held, fresh: tensors of one dtype and size; mask: (size + 7) // 8 bytes; values: room for as many elements as fit.
    Returns how many changed; or -1 if there is no room for them: mask and values are of no use then, nor is `held`,
    until the caller has copied `fresh` to it. With a threshold (float32 and uint8), elements that are near enough
    haven't changed, so that |held - fresh| <= threshold after the call, everywhere.
    Raises ValueError for arrays that don't fit together.
    """
    if held is None:
        if threshold:
            raise ValueError("a threshold needs what is held")
        return delta_compare(np.zeros_like(fresh), fresh, mask, values)
    count = delta_compare(held, fresh, mask, values, threshold)
    if count > 0:
        changed = np.unpackbits(mask, count=fresh.size, bitorder="little").astype(bool)
        bits(held)[changed] = bits(fresh)[changed]
    return count


def delta_compare(base: Tensor, fresh: Tensor, mask: Bytes, values: Bytes, threshold: float = 0.0) -> int:
    """What `delta_encode` says and writes; `base` stays as it is."""
    if base.dtype != fresh.dtype or base.size != fresh.size:
        raise ValueError("held must be of the type and size of fresh")
    if mask.size != (fresh.size + 7) // 8:
        raise ValueError("mask must have a bit for each element, in whole bytes")
    if not 0 <= threshold < np.inf:
        raise ValueError("threshold must be 0 or above")
    changed = bits(base) != bits(fresh)
    if threshold:
        changed &= ~near(base.reshape(-1), fresh.reshape(-1), threshold)
    found = bits(fresh)[changed]
    if found.nbytes > values.size:
        return -1
    mask[...] = np.packbits(changed, bitorder="little")
    values[: found.nbytes] = found.view(np.uint8)
    return int(found.size)


def near(base: Tensor, fresh: Tensor, threshold: float) -> NDArray[np.bool_]:
    """Where the distance is at most `threshold`; for float32 as far as float32 can be sure of that."""
    if fresh.dtype == np.uint8:
        return np.asarray(np.abs(fresh.astype(np.int16) - base) <= threshold)
    if fresh.dtype != np.float32:
        raise ValueError("only float32 and uint8 take a threshold")
    limit = np.float32(threshold)
    if float(limit) > threshold:
        limit = np.nextafter(limit, np.float32(0))
    with np.errstate(invalid="ignore", over="ignore"):
        # Rounding is monotonic: were the distance above the limit, its rounded value would not be below it.
        return np.asarray(np.abs(fresh - base) < limit)


def delta_decode(held: Tensor, mask: Bytes, values: Bytes) -> int:
    """Writes `values` to the places of `held` that `mask` names.

    Returns 0; or 1 if the mask names another number of places, or one beyond the end, and nothing was written. The
    native kernel returns 2 if the mask changed while it was read: `held` is of no use then. Raises ValueError for a
    mask of another length, and for values that aren't whole elements.
    """
    if mask.size != (held.size + 7) // 8:
        raise ValueError("mask must have a bit for each element, in whole bytes")
    if values.size % held.itemsize:
        raise ValueError("values must be whole elements")
    named = np.unpackbits(mask, bitorder="little").astype(bool)
    if named[held.size :].any() or int(named.sum()) * held.itemsize != values.size:
        return 1
    bits(held)[named[: held.size]] = np.frombuffer(values.tobytes(), bits(held).dtype)
    return 0


def delta_gather(held: Tensor, mask: Bytes, values: Bytes) -> int:
    """Writes the elements of `held` that `mask` names to `values`. Returns and raises what `delta_decode` does."""
    if mask.size != (held.size + 7) // 8:
        raise ValueError("mask must have a bit for each element, in whole bytes")
    if values.size % held.itemsize:
        raise ValueError("values must be whole elements")
    named = np.unpackbits(mask, bitorder="little").astype(bool)
    if named[held.size :].any() or int(named.sum()) * held.itemsize != values.size:
        return 1
    values[...] = bits(held)[named[: held.size]].view(np.uint8)
    return 0


def nested_room(mask_bytes: int) -> int:
    """Bytes that `mask_nest` wants for its output."""
    words = (mask_bytes + 7) // 8
    return (words + 7) // 8 + 9 * words + 8


def mask_nest(mask: Bytes, out: Bytes) -> int:
    """Writes the nested encoding of a mask to `out` (at least `nested_room` bytes), and returns its length.

    It leaves out zeros: a bit for each word of eight bytes, whether one of them isn't zero, in whole bytes; then for
    each such word a byte that says which, and those.
    """
    words = np.zeros((-(-mask.size // 8), 8), np.uint8)
    words.reshape(-1)[: mask.size] = mask
    there = words.any(axis=1)
    top = np.packbits(there, bitorder="little")
    which = np.packbits(words[there] != 0, axis=1, bitorder="little").reshape(-1)
    rest = [np.concatenate([which[i : i + 1], word[word != 0]]) for i, word in enumerate(words[there])]
    nested = np.concatenate([top, *rest])
    if out.size < nested_room(mask.size):
        raise ValueError("out is too short for any mask of that length")
    out[: nested.size] = nested
    return int(nested.size)


def mask_unnest(nested: Bytes, mask: Bytes) -> bool:
    """Writes the mask of which `nested` is the nested encoding; False if it is none, and then `mask` is of no use."""
    count = -(-mask.size // 8)
    words = np.zeros((count, 8), np.uint8)
    at = -(-count // 8)
    if nested.size < at:
        return False
    there = np.unpackbits(nested[:at], bitorder="little").astype(bool)
    if there[count:].any():
        return False
    for word in np.flatnonzero(there):
        if at == nested.size:
            return False
        which = np.unpackbits(nested[at : at + 1], bitorder="little").astype(bool)
        more = int(which.sum())
        found = nested[at + 1 : at + 1 + more]
        if not more or found.size < more or not found.all():
            return False
        words[word, which] = found
        at += 1 + more
    flat = words.reshape(-1)
    mask[...] = flat[: mask.size]
    return at == nested.size and not flat[mask.size :].any()


def bits(tensor: Tensor) -> Tensor:
    """The elements of a contiguous tensor in a row, as unsigned integers that share its memory."""
    flat = tensor.reshape(-1)
    if not tensor.flags.c_contiguous:
        raise ValueError("a tensor must be contiguous")
    return flat.view(f"u{tensor.itemsize}")
