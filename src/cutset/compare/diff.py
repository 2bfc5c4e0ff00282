"""Compares two result files by their ratios.

Machines differ and a shared one is noisy, so no figure of one file is held against a figure of the other. What is
compared is how far ours is from an opponent that ran beside it: ratio in NEW against ratio in OLD. Where a workload
has no opponent, our systems are compared with one of our own: the slow twin (reference, local or dense, by name), or
else the first in OLD. Then a twin that got faster shows as a regression of the others; `against` names it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cutset.compare.metric_units import higher_is_better
from cutset.compare.results import Results, Row
from cutset.errors import ConfigError

__all__ = ["Comparison", "DiffLine", "compare"]

TWINS = ("reference", "local", "dense")
FAILURES = ("regression", "gone")


@dataclass(frozen=True, slots=True)
class DiffLine:
    """One pair of systems, or one row that has none. `change` is above 1 where NEW is better, whatever the unit.

    `verdict` is "regression", "gone" (both failures), "improvement", "same", "new" or "not comparable".
    """

    workload: str
    metric: str
    system: str
    verdict: str
    against: str = ""
    old: float | None = None  # value of `system` / value of `against`
    new: float | None = None
    change: float | None = None
    allowed: float | None = None  # the tolerance, widened by the spreads
    note: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every row of both files, in the order of OLD, then what is new."""

    lines: tuple[DiffLine, ...]

    @property
    def failed(self) -> bool:
        """Whether something got worse or went missing."""
        return any(line.verdict in FAILURES for line in self.lines)

    def count(self, verdict: str) -> int:
        """How many lines have that verdict."""
        return sum(line.verdict == verdict for line in self.lines)


def compare(old: Results, new: Results, tolerance: float = 0.1) -> Comparison:
    """Compares NEW with OLD. A ratio that is worse by a factor of over 1 + `tolerance` is a regression; where the
    spreads of the four figures, added in quadrature, are larger, they are the tolerance.

    Raises `ConfigError` for a unit that isn't known and for a tolerance that is negative or not finite.
    """
    if not 0 <= tolerance < math.inf:
        raise ConfigError(f"the tolerance must be a finite number of 0 or more, not {tolerance}")
    before, after = {row.key: row for row in old.rows}, {row.key: row for row in new.rows}
    lines = []
    for group in _groups(old.rows):
        lines += [_alone(row, "gone", "not in NEW") for row in group if row.key not in after]
        pairs = list(_pairs(group))
        for ours, against in pairs:
            if ours.key in after and against.key in after:
                lines.append(_judge(ours, against, after[ours.key], after[against.key], tolerance))
        if not pairs:
            rows = [row for row in group if row.key in after]
            lines += [_alone(row, "not comparable", "no two systems to divide") for row in rows]
    lines += [_alone(row, "new", "not in OLD") for row in new.rows if row.key not in before]
    return Comparison(tuple(lines))


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.workload, row.metric), []).append(row)
    return list(groups.values())


def _pairs(group: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """Ours with each opponent; without opponents, ours with the twin."""
    ours = [row for row in group if row.ours]
    against = [row for row in group if not row.ours]
    if ours and not against:
        twins = [row for row in ours if any(word in row.system for word in TWINS)]
        against = [twins[0] if twins else ours[0]]
    for row in ours:
        yield from ((row, other) for other in against if other is not row)


def _alone(row: Row, verdict: str, note: str) -> DiffLine:
    return DiffLine(row.workload, row.metric, row.system, verdict, note=note)


def _judge(ours: Row, against: Row, new_ours: Row, new_against: Row, tolerance: float) -> DiffLine:
    rows = (ours, against, new_ours, new_against)
    directions = {higher_is_better(row.unit, row.metric) for row in rows}
    old, new = _ratio(ours, against), _ratio(new_ours, new_against)
    allowed = max(tolerance, math.hypot(*(row.spread or 0.0 for row in rows)))
    change, verdict, note = None, "not comparable", ""
    if len(directions) > 1 or ours.unit != against.unit or new_ours.unit != new_against.unit:
        note = "the units differ"
    elif old is None:
        note = "no ratio in OLD: a value is zero, negative or not a number"
    elif new is None and math.isfinite(new_ours.value) and new_ours.value >= 0:
        note = f"no ratio in NEW: {against.system} is zero, negative or not a number"
    elif new is None:  # ours had a value that could be used, and has none now
        verdict, note = "regression", "ours is negative or not a number in NEW"
    else:
        better, worse = (new, old) if directions.pop() else (old, new)
        change = 1.0 if better == worse else better / worse if worse else math.inf
        verdict = "same"
        if change > 1 + allowed:
            verdict = "improvement"
        elif change * (1 + allowed) < 1:
            verdict = "regression"
    return DiffLine(ours.workload, ours.metric, ours.system, verdict, against.system, old, new, change, allowed, note)


def _ratio(row: Row, other: Row) -> float | None:
    """How `row` compares with `other`; None where a division would say nothing."""
    if not 0 <= row.value < math.inf or not 0 < other.value < math.inf:
        return None
    ratio = row.value / other.value
    return ratio if math.isfinite(ratio) else None
