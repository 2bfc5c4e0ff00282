"""Who makes plans, by name. All take the same problem and are judged by the same costs.

interface      what every scheduler does
optimal        the best plan under the cost model
exhaustive     every plan, one by one: for small networks
balance        by speed alone
neighbourhood  moves boundaries of the balanced plan
sides          everything on one machine: edge, cloud, forward
"""

from __future__ import annotations

from cutset.config import did_you_mean
from cutset.errors import ConfigError
from cutset.partition.schedulers.balance import Balance
from cutset.partition.schedulers.exhaustive import Exhaustive
from cutset.partition.schedulers.interface import Scheduler
from cutset.partition.schedulers.neighbourhood import Neighbourhood
from cutset.partition.schedulers.optimal import Optimal
from cutset.partition.schedulers.sides import Forward, Side

__all__ = ["SCHEDULERS", "Scheduler", "scheduler"]

SCHEDULERS: dict[str, Scheduler] = {
    each.name: each
    for each in (
        Optimal(),
        Balance(),
        Neighbourhood(),
        Side("edge", 0),
        Side("cloud", -1),
        Forward(),
        Exhaustive(),
    )
}


def scheduler(name: str) -> Scheduler:
    """Raises ConfigError for a name that nobody has."""
    if name not in SCHEDULERS:
        raise ConfigError(f"there is no scheduler {name!r}{did_you_mean(name, SCHEDULERS)}")
    return SCHEDULERS[name]
