"""Flags of batches whose items are done by actors of a Ray cluster."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from cutset.config import Settings, StreamSettings
from cutset.errors import ConfigError

if TYPE_CHECKING:
    from cutset.cluster.launch.ray_pool import PoolOptions

__all__ = ["NOT_SETTINGS", "add_cluster", "cluster_from"]

_Settings = TypeVar("_Settings", Settings, StreamSettings)
NOT_SETTINGS = ("ray", "place", "insecure_ray")  # of a batch they are of whole engines, not of stages or workers


def add_cluster(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds the flags; `what` each actor has."""
    group = parser.add_argument_group("over a cluster", f"{what}; needs the extra ray")
    group.add_argument(
        "--ray", metavar="local|auto|ADDRESS", help="a Ray cluster here for this run, the one that is here, or its head"
    )
    group.add_argument("--ray-actors", type=int, default=0, metavar="N", help="how many (default: one a node)")
    group.add_argument(
        "--insecure-ray", action="store_true", help="accept a cluster without Ray's token authentication"
    )


def cluster_from(args: argparse.Namespace, settings: _Settings) -> tuple[PoolOptions | None, _Settings]:
    """Which cluster, None for none, and the settings for each actor: that of a file or a variable counts where no flag
    names one. Raises ConfigError and LinkError, see `check_pool`."""
    where = settings.ray if args.ray is None else args.ray
    if not where:
        if args.ray_actors or args.insecure_ray:
            name = "ray-actors" if args.ray_actors else "insecure-ray"
            raise ConfigError(f"--{name} is for --ray: say which cluster, as --ray local, auto or HOST:PORT")
        return None, settings
    from cutset.cluster.launch.ray_pool import PoolOptions, check_pool

    options = PoolOptions(where, args.ray_actors, args.insecure_ray)
    check_pool(options)
    return options, replace(settings, ray="", place=())
