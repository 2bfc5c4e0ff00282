"""Which layers may be off by how much: more where it saves much and moves the output little, less elsewhere.

A group of layers at a time has its thresholds raised and lowered over a few pictures, and both are measured: the
seconds that are left (each layer's share at what all of it costs) and the square of what the output moves. Squares of
errors that have little to do with each other add up, so each group can then be chosen alone, by how many seconds a
square is worth; that price is searched for at which all of them together are as far off as they may be, and what was
chosen is measured again, all of it together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cutset.cluster.values import Array
from cutset.video.delta.program import Program
from cutset.video.delta.sparse_layers import SparseLayer

__all__ = ["Calibration", "Choice", "calibrate", "chosen"]

GROUPS = 8  # of layers, beside the input's own
STEPS = (0.25, 4.0, 16.0)  # times a group's thresholds that are tried
ROUNDS = 2  # the second around what the first one chose
LEAST_FACTOR, MOST_FACTOR = 2.0**-6, 2.0**6
AGAIN = 4  # smaller budgets that are tried where all together is further off than the sum
HALVINGS = 40

# How far outputs (of our layers, and dense) are apart, as a share of what is allowed.
Moved = Callable[[Mapping[str, Array], Mapping[str, Array]], float]


@dataclass(frozen=True)
class Choice:
    """A group's factor, and by what it changes a picture's seconds and the square of what moves."""

    factor: float
    seconds: float
    square: float


@dataclass(frozen=True)
class Calibration:
    """Factors of thresholds (`Program.factors`); a picture's seconds and the square of what moves, before and after."""

    factors: Mapping[str, float]
    before: tuple[float, float]
    after: tuple[float, float]


def calibrate(
    program: Program,
    pictures: Sequence[Mapping[str, Array]],
    dense: Sequence[Mapping[str, Array]],
    moved: Moved,
    *,
    scale: float,
    budget: float = 1.0,
    log: Callable[[str], None] = lambda line: None,
) -> Calibration:
    """Factors for a program's layers at this scale, from consecutive pictures and what dense gives of them.

    `budget`: the root of the mean square of what may move. Leaves the program with these factors.
    """
    groups = _groups(program)
    state = program.state()
    program.update(state, program.take(state, pictures[0]))
    allowed = budget * budget

    def measure(factors: Mapping[str, float]) -> tuple[float, float]:
        """Seconds of a picture, and the mean square of what moves."""
        program.factors = dict(factors)
        now, seconds, squares = program.copied(state), [], []
        for values, wanted in zip(pictures[1:], dense[1:], strict=True):
            work = program.update(now, program.take(now, values, None, scale), scale)
            costs = zip(program.compiled.layers, now.costs, strict=True)
            seconds.append(sum(cost * work.shares[layer.nodes[0]] for layer, cost in costs))
            squares.append(moved(program.results(now), wanted) ** 2)
        return float(np.mean(seconds)), float(np.mean(squares))

    factors = dict.fromkeys((name for group in groups for name in group), 1.0)
    factors |= {name: program.factors[name] for name in program.factors if name in factors}
    before = best = measure(factors)
    found = (before, factors) if before[1] <= allowed else None
    for turn in range(ROUNDS):
        choices = []
        for group in groups:
            own = [Choice(1.0, 0.0, 0.0)]
            for step in STEPS:
                tried = factors | {name: _limited(factors[name] * step) for name in group}
                seconds, square = measure(tried)
                own.append(Choice(step, seconds - best[0], square - best[1]))
            choices.append(own)
        left = allowed - best[1]
        for _ in range(AGAIN):
            picked = chosen(choices, left)
            tried = dict(factors)
            for group, choice in zip(groups, picked, strict=True):
                tried |= {name: _limited(factors[name] * choice.factor) for name in group}
            result = measure(tried)
            log(
                f"thresholds, round {turn + 1}: {1e3 * result[0]:.2f} ms a picture, {result[1] ** 0.5:.2f} of the limit"
            )
            if result[1] <= allowed:
                if found is None or result[0] < found[0][0]:
                    found = result, tried
                break
            left = min(left, sum(choice.square for choice in picked)) - (result[1] - allowed)
        if found is None:  # begin lower
            factors = {name: _limited(factor * STEPS[0]) for name, factor in factors.items()}
            best = measure(factors)
        else:
            best, factors = found
    program.factors = dict(factors)
    return Calibration(factors, before, best)


def chosen(choices: Sequence[Sequence[Choice]], budget: float) -> list[Choice]:
    """One of each group's choices: the least seconds at which the squares add up to the budget or less, as far as one
    price of a square for all groups can say; the least squares where even these are above it."""

    def at(price: float) -> list[Choice]:
        return [min(own, key=lambda one: (one.seconds + price * one.square, one.square)) for own in choices]

    def total(picked: Sequence[Choice]) -> float:
        return sum(choice.square for choice in picked)

    if total(at(0.0)) <= budget:
        return at(0.0)
    slopes = [
        abs(a.seconds - b.seconds) / abs(a.square - b.square)
        for own in choices
        for a, b in pairwise(sorted(own, key=lambda one: one.square))
        if a.square != b.square
    ]
    low, high = 0.0, 2 * max(slopes, default=1.0) + 1e-9
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if total(at(middle)) <= budget else (middle, high)
    return at(high)


def _limited(factor: float) -> float:
    return min(max(factor, LEAST_FACTOR), MOST_FACTOR)


def _groups(program: Program) -> list[list[str]]:
    """Names of what has thresholds: the inputs, then layers that follow each other, with operations alike in number."""
    layers = [one for one in program.compiled.layers if isinstance(one, SparseLayer) and one.held_back]
    total, done = sum(layer.flops for layer in layers), 0
    groups: list[list[str]] = [list(program.inputs)]
    last = -1
    for layer in layers:
        number = min(done * GROUPS // max(total, 1), GROUPS - 1)
        if number != last:
            groups.append([])
        groups[-1].append(layer.made)
        last, done = number, done + layer.flops
    return groups
