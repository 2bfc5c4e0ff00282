"""Which layers may be off by how much: more where it saves much and moves the output little, less elsewhere.

A group of layers at a time has its thresholds raised and lowered over a few pictures, and both are measured: the
seconds that are left (each layer's share at what all of it costs) and the square of what the output moves. Squares of
errors that have little to do with each other add up, so each group can then be chosen alone, by how many seconds a
square is worth; that price is searched for at which all of them together are as far off as they may be. They don't
quite add up: so what was chosen is measured, and single changes are kept where all together are still within it.
Pictures should lie apart: in few that follow each other too little changes to tell, and what seems free is not. So half
of the pictures are left out of that: by them it is judged in the end, beside equal factors for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cutset.cluster.values import Array
from cutset.video.delta.program import Program
from cutset.video.delta.sparse_layers import SparseLayer

__all__ = ["FactorStep", "LayerFactors", "calibrate", "chosen"]

GROUPS = 8  # of layers, beside the input's own
STEPS = (0.25, 4.0)  # times a group's thresholds that are tried
TIMES = (0.25, 0.5, 0.7, 1.4, 2.0)  # all factors, equal or found: what is tried in the end
KEYS = 2  # pictures that are computed whole, until it is known what layers cost
ROUNDS = 2  # the second around what the first one chose
LEAST_FACTOR, MOST_FACTOR = 1 / 16, 4.0
NOTHING = 1e-4  # of a square: less is none
HALVINGS = 40

# How far outputs (of our layers, and dense) are apart, as a share of what is allowed.
Moved = Callable[[Mapping[str, Array], Mapping[str, Array]], float]


@dataclass(frozen=True)
class FactorStep:
    """A group's factor, and by what it changes a picture's seconds and the square of what moves."""

    factor: float
    seconds: float
    square: float


@dataclass(frozen=True)
class LayerFactors:
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
) -> LayerFactors:
    """Factors for a program's layers at this scale, from four pictures or more and what dense gives of them.

    `budget`: the root of the mean square of what may move. Leaves the program with these factors.
    """
    groups, allowed = _groups(program), budget * budget
    measure, judge = (
        _Trial(program, pictures[part], dense[part], moved, scale) for part in (slice(0, None, 2), slice(1, None, 2))
    )
    factors = dict.fromkeys((name for group in groups for name in group), 1.0)
    factors |= {name: program.factors[name] for name in program.factors if name in factors}
    best = measure(factors)
    for turn in range(ROUNDS):
        choices = []
        for group in groups:
            own = [FactorStep(1.0, 0.0, 0.0)]
            for step in STEPS:
                seconds, square = measure(_changed(factors, group, step))
                own.append(FactorStep(step, seconds - best[0], square - best[1]))
            choices.append(own)
        tried = factors
        for group, choice in zip(groups, chosen(choices, allowed - best[1]), strict=True):
            tried = _changed(tried, group, choice.factor)
        result = measure(tried)
        if _better(result, best, allowed):
            best, factors = result, tried
        for at, choice in _in_order(choices):
            tried = _changed(factors, groups[at], choice.factor)
            result = measure(tried)
            if _better(result, best, allowed):
                best, factors = result, tried
        log(f"thresholds, round {turn + 1}: {1e3 * best[0]:.2f} ms a picture, {best[1] ** 0.5:.2f} of what may move")
    even = dict.fromkeys(factors, 1.0)
    before = judge(even)
    found = [(before, even)]
    for tried in (even, factors):
        scaled = [{name: factor * times for name, factor in tried.items()} for times in TIMES]
        found += [(judge(one), one) for one in scaled]
    within = [one for one in found if one[0][1] <= allowed] or [min(found, key=lambda one: one[0][1])]
    after, factors = min(within, key=lambda one: one[0][0])
    log(f"thresholds: {1e3 * after[0]:.2f} ms a picture, {after[1] ** 0.5:.2f} of what may move in other pictures")
    program.factors = dict(factors)
    return LayerFactors(factors, before, after)


class _Trial:
    """Plays pictures with factors: seconds of a picture, and the mean square of what moves."""

    def __init__(
        self,
        program: Program,
        pictures: Sequence[Mapping[str, Array]],
        dense: Sequence[Mapping[str, Array]],
        moved: Moved,
        scale: float,
    ) -> None:
        self._program, self._pictures, self._dense = program, pictures, dense
        self._moved, self._scale = moved, scale
        self._state = program.state()
        costs = []
        for _ in range(KEYS):
            self._state.stale = True
            program.update(self._state, program.take(self._state, pictures[0]))
            costs.append(self._state.costs)
        self._state.costs = [min(own) for own in zip(*costs, strict=True)]

    def __call__(self, factors: Mapping[str, float]) -> tuple[float, float]:
        program, scale = self._program, self._scale
        program.factors = dict(factors)
        now, seconds, squares = program.copied(self._state), [], []
        for values, wanted in zip(self._pictures[1:], self._dense[1:], strict=True):
            work = program.update(now, program.take(now, values, None, scale), scale)
            costs = zip(program.compiled.layers, now.costs, strict=True)
            seconds.append(sum(cost * work.shares[layer.nodes[0]] for layer, cost in costs))
            squares.append(self._moved(program.results(now), wanted) ** 2)
        return float(np.mean(seconds)), float(np.mean(squares))


def _better(result: tuple[float, float], best: tuple[float, float], allowed: float) -> bool:
    """Whether seconds and square are within what is allowed at fewer seconds, or nearer to it."""
    if best[1] > allowed:
        return result[1] < best[1]
    return result[1] <= allowed and result[0] < best[0]


def _in_order(choices: Sequence[Sequence[FactorStep]]) -> list[tuple[int, FactorStep]]:
    """Changes that save seconds, with the numbers of their groups: those first that save most for what moves."""
    saving = [(at, choice) for at, own in enumerate(choices) for choice in own if choice.seconds < 0]
    return sorted(saving, key=lambda one: -one[1].seconds / max(one[1].square, NOTHING), reverse=True)


def _changed(factors: Mapping[str, float], group: Sequence[str], step: float) -> dict[str, float]:
    return {**factors, **{name: min(max(factors[name] * step, LEAST_FACTOR), MOST_FACTOR) for name in group}}


def chosen(choices: Sequence[Sequence[FactorStep]], budget: float) -> list[FactorStep]:
    """One of each group's choices: the least seconds at which the squares add up to the budget or less, as far as one
    price of a square for all groups can say; the least squares where even these are above it."""

    def at(price: float) -> list[FactorStep]:
        return [min(own, key=lambda one: (one.seconds + price * one.square, one.square)) for own in choices]

    def total(picked: Sequence[FactorStep]) -> float:
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
