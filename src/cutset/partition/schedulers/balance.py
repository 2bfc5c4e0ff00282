"""Load balance: each worker's share of the work is as large as its share of the speed, whatever is sent.

A baseline, as older systems have it: the layers' times on the first worker are the work, one number a worker is the
speed, and each ideal boundary is moved to the nearest cut of the order.
"""

from __future__ import annotations

import numpy as np

from cutset.partition.cost import Model
from cutset.partition.plan import PictureForm, Plan
from cutset.partition.problem import Problem
from cutset.partition.schedulers.interface import allowed, cut_at

__all__ = ["Balance", "balanced_cuts"]


class Balance:
    name = "balance"

    def plan(self, problem: Problem, model: Model | None = None) -> Plan:
        """Raises ConfigError where the balanced plan isn't allowed: it looks at no limit."""
        picture: PictureForm = "uint8" if "uint8" in problem.pictures else next(iter(problem.pictures))
        return allowed(problem, cut_at(problem, balanced_cuts(problem), picture, self.name))


def balanced_cuts(problem: Problem) -> list[int]:
    """Where the order is cut: a rising list from 0 to the number of nodes, one longer than the workers."""
    seconds = [machine.seconds for machine in problem.machines]
    done = np.concatenate([[0.0], np.cumsum(seconds[0])])
    totals = np.array([times.sum() for times in seconds])
    speeds = 1 / np.maximum(totals, 1e-12)
    ideal = done[-1] * np.cumsum(speeds) / speeds.sum()
    cuts = [int(np.argmin(np.abs(done - boundary))) for boundary in ideal[:-1]]
    return [0, *np.maximum.accumulate([*cuts, len(done) - 1]).tolist()]
