"""Is what leaves the client uniform on [0, p)? Tests with a fixed significance: one false alarm in a million.

Each test turns a capture of residues, one array (rows, depth) a message, into a figure with a known law for uniform
residues, and gives the probability of a figure at least as large. Seven tests at 10⁻⁷ each make less than 10⁻⁶.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from attacks.careless import P
from attacks.setting import Array

__all__ = ["SIGNIFICANCE", "TESTS", "chi_square", "failures", "repeats", "words"]

SIGNIFICANCE = 1e-7
BUCKETS = 256
GROUPS = 32  # of positions, by the column's place in its row


def words(wire: Array) -> Array:
    """The bytes of any array as residues, so that a wire of another kind can be tested: uint32 below p."""
    residues: Array = np.minimum(np.ascontiguousarray(wire).view(np.uint32) & P, P - 1)
    return residues.reshape(wire.shape[0], -1)


def chi_square(counts: Array, expected: Array) -> float:
    """The probability of counts at least as far from those expected, by Wilson and Hilferty's cube root (1931)."""
    freedom = counts.size - 1
    statistic = float((np.square(counts - expected) / expected).sum())
    spread = 2 / (9 * freedom)
    return _upper(((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread))


def _upper(z: float) -> float:
    """The probability that a standard normal variable is above z."""
    return math.erfc(z / math.sqrt(2)) / 2


def _flat(capture: Sequence[Array]) -> Array:
    values: Array = np.concatenate([rows.reshape(-1).astype(np.int64) for rows in capture])
    return values


def high_bits(capture: Sequence[Array]) -> float:
    """256 equal ranges of [0, p)."""
    values = _flat(capture)
    edges = -(-np.arange(BUCKETS + 1, dtype=np.int64) * P // BUCKETS)  # rounded up: the first value of each range
    counts = np.bincount(values * BUCKETS // P, minlength=BUCKETS)
    return chi_square(counts, np.diff(edges) / P * values.size)


def low_bits(capture: Sequence[Array]) -> float:
    """The residues modulo 256."""
    values = _flat(capture)
    sizes = np.full(BUCKETS, P // BUCKETS) + (np.arange(BUCKETS) < P % BUCKETS)
    return chi_square(np.bincount(values % BUCKETS, minlength=BUCKETS), sizes / P * values.size)


def positions(capture: Sequence[Array]) -> float:
    """16 ranges of values in each of 32 groups of columns: a channel that is larger than others would show."""
    table = np.zeros((GROUPS, 16))
    for rows in capture:
        groups = np.broadcast_to(np.arange(rows.shape[1]) * GROUPS // rows.shape[1], rows.shape)
        cells = groups * 16 + rows.astype(np.int64) * 16 // P
        table += np.bincount(cells.reshape(-1), minlength=table.size).reshape(table.shape)
    used = table[table.sum(axis=1) > 0]
    expected = np.broadcast_to(used.sum(axis=1, keepdims=True) / 16, used.shape)
    # The group sizes are given, not drawn: each costs one degree of freedom.
    freedom, statistic = used.shape[0] * 15, float((np.square(used - expected) / expected).sum())
    return _upper(((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom)))


def _correlation(first: Array, second: Array) -> float:
    """Two-sided, of centred uniform values."""
    if first.size == 0:
        return 1.0
    scale = P / math.sqrt(12)
    product = ((first - P / 2) / scale * ((second - P / 2) / scale)).sum()
    return 2 * _upper(abs(float(product)) / math.sqrt(first.size))


def neighbours(capture: Sequence[Array]) -> float:
    """Each residue with the one after it."""
    values = _flat(capture)
    return _correlation(values[:-1], values[1:])


def rows_apart(capture: Sequence[Array]) -> float:
    """Each residue with the one in the same place of the next row."""
    first = [rows[:-1] for rows in capture if len(rows) > 1]
    second = [rows[1:] for rows in capture if len(rows) > 1]
    return _correlation(_flat(first), _flat(second)) if first else 1.0


def messages_apart(capture: Sequence[Array]) -> float:
    """Each residue with the one in the same place of the next message of that shape: a mask that is used again."""
    last: dict[tuple[int, ...], Array] = {}
    first, second = [], []
    for rows in capture:
        if rows.shape in last:
            first.append(last[rows.shape])
            second.append(rows)
        last[rows.shape] = rows
    return _correlation(_flat(first), _flat(second)) if first else 1.0


def mean(capture: Sequence[Array]) -> float:
    """The mean of all."""
    values = _flat(capture)
    return 2 * _upper(abs(float((values - (P - 1) / 2).sum())) / (P / math.sqrt(12)) / math.sqrt(values.size))


TESTS: tuple[Callable[[Sequence[Array]], float], ...] = (
    high_bits,
    low_bits,
    positions,
    neighbours,
    rows_apart,
    messages_apart,
    mean,
)


def failures(capture: Sequence[Array]) -> dict[str, float]:
    """The tests that refuse a capture, with their probabilities; empty where it looks uniform."""
    found = {test.__name__: test(capture) for test in TESTS}
    return {name: probability for name, probability in found.items() if probability < SIGNIFICANCE}


def repeats(first: Sequence[Array], second: Sequence[Array]) -> tuple[int, int]:
    """How many residues are the same in the same place of two captures, and how many are few enough.

    Independent residues agree once in p: the second figure is exceeded with a probability below 10⁻⁷.
    """
    same = sum(int((a == b).sum()) for a, b in zip(first, second, strict=True))
    expected = sum(a.size for a in first) / P
    allowed, term, tail = 0, math.exp(-expected), 1 - math.exp(-expected)
    while tail > SIGNIFICANCE:
        allowed += 1
        term *= expected / allowed
        tail -= term
    return same, allowed
