"""What a benchmark is to reach, and whether it did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cutset.cli.output import table
from cutset.compare.metric_units import format_value
from cutset.compare.results import Row

__all__ = ["Target", "judge", "targets_table"]


@dataclass(frozen=True, slots=True)
class Target:
    """`metric` is the end of the rows' own, `system` the beginning; the worst row counts."""

    text: str
    metric: str
    limit: float
    least: bool = False  # the limit is the least instead of the most
    system: str = "cutset"
    workload: str = ""  # in the rows' own

    def worst(self, rows: Sequence[Row]) -> Row | None:
        """The row that counts; None where it wasn't measured."""
        mine = [
            row
            for row in rows
            if row.metric.endswith(self.metric) and row.system.startswith(self.system) and self.workload in row.workload
        ]
        pick: Callable[..., Row] = min if self.least else max
        return pick(mine, key=lambda row: row.value) if mine else None

    def reached(self, value: float) -> bool:
        return value >= self.limit if self.least else value <= self.limit


def judge(rows: Sequence[Row], targets: Sequence[Target]) -> list[tuple[str, str, str, str, str]]:
    """Lines of a table: what, the limit, the worst figure, whether it was reached, and where that was."""
    lines = []
    for target in targets:
        row = target.worst(rows)
        if row is not None:
            limit = f"{'at least' if target.least else 'at most'} {format_value(target.limit)}"
            verdict = "yes" if target.reached(row.value) else "NO"
            lines.append((target.text, limit, format_value(row.value), verdict, f"{row.workload}: {row.system}"))
    return lines


def targets_table(rows: Sequence[Row], targets: Sequence[Target]) -> str:
    """The lines of `judge` under a head."""
    return table([("target", "", "worst", "reached", "where"), *judge(rows, targets)], right=(2,))
