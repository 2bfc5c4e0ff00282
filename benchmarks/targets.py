"""What `cutset bench stream` is to reach, and whether it did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cutset.bench.report import format_value
from cutset.bench.stream_bytes import AGAINST_BOUND, AGAINST_CSR, FIRST_CUTS
from cutset.bench.stream_faults import ERROR, RECOVERY
from cutset.bench.stream_planning import TIME
from cutset.bench.stream_plans import CHOSEN, MISSED
from cutset.compare.results import Row

__all__ = ["TARGETS", "Target", "judge"]


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


TARGETS = (
    Target("error against the dense network", ERROR, 0.0),
    Target("bytes of a delta over changed values and mask", AGAINST_BOUND, 1.1),
    Target("bytes of a delta over CSR per channel", AGAINST_CSR, 1.0),
    Target("full over delta, first cuts of VGG16", FIRST_CUTS, 3.0, least=True, workload="vgg16, one-by-one"),
    Target("the optimal plan over the best that was run", CHOSEN, 1.1),
    Target("predicted latency, off by per cent", MISSED, 15.0),
    Target("seconds to plan a chain of 200 layers on 16 workers", TIME, 1.0, system="cutset optimal", workload="chain"),
    Target("seconds from a worker's death to the next payload", RECOVERY, 2.0),
)


def judge(rows: Sequence[Row], targets: Sequence[Target] = TARGETS) -> list[tuple[str, str, str, str, str]]:
    """Lines of a table: what, the limit, the worst figure, whether it was reached, and where that was."""
    lines = []
    for target in targets:
        row = target.worst(rows)
        if row is not None:
            limit = f"{'at least' if target.least else 'at most'} {format_value(target.limit)}"
            verdict = "yes" if target.reached(row.value) else "NO"
            lines.append((target.text, limit, format_value(row.value), verdict, f"{row.workload}: {row.system}"))
    return lines
