"""Who makes plans, by name. All take the same problem and are judged by the same costs.

plan_scheduler  what every scheduler does
optimal         the best plan under the cost model
exhaustive      every plan, one by one: for small networks
baselines       balance (by speed alone), neighbourhood (moves boundaries of the balanced plan), and all on one machine:
                edge, cloud, forward
by_weight       as many bytes of weights, or seconds, for each within their memory: for stages of decoders
"""

from __future__ import annotations

from cutset.config import did_you_mean
from cutset.errors import ConfigError
from cutset.partition.schedulers.baselines import Balance, BestSide, Neighbourhood, Side
from cutset.partition.schedulers.exhaustive import Exhaustive
from cutset.partition.schedulers.optimal import Optimal
from cutset.partition.schedulers.plan_scheduler import PlanScheduler

__all__ = ["SCHEDULERS", "PlanScheduler", "scheduler"]

SCHEDULERS: dict[str, PlanScheduler] = {
    each.name: each
    for each in (
        Optimal(),
        Balance(),
        Neighbourhood(),
        Side("edge", 0),
        Side("cloud", -1),
        BestSide(),
        Exhaustive(),
    )
}


def scheduler(name: str) -> PlanScheduler:
    """The scheduler of that name. Raises ConfigError for a name that nobody has."""
    if name not in SCHEDULERS:
        raise ConfigError(f"there is no scheduler {name!r}{did_you_mean(name, SCHEDULERS)}")
    return SCHEDULERS[name]
