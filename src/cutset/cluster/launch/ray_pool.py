"""Actors of a Ray cluster that do the items of a batch: how many, whether there is room, and their first steps."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutset.cluster.launch.party_needs import Needs, no_room
from cutset.cluster.launch.ray_address import reachable
from cutset.cluster.launch.ray_launcher import check_ray
from cutset.errors import ConfigError, LinkError

__all__ = ["MOST_ACTORS", "PoolOptions", "RayPool", "check_pool", "open_pool", "settle"]

MOST_ACTORS = 4096
ROOM = 20.0  # seconds that the cluster gets to make room for all actors
LESS = "--ray-actors, --threads, --workers"


@dataclass(frozen=True)
class PoolOptions:
    """`where`: local, auto or HOST:PORT; `actors`: how many, 0 for one on each node that has room; `insecure`: a
    cluster without tokens will do."""

    where: str
    actors: int = 0
    insecure: bool = False


@dataclass(frozen=True)
class RayPool:
    """A cluster that has room for `actors`."""

    ray: Any
    options: PoolOptions
    needs: Needs  # of each actor
    actors: int
    check: Callable[[], None] = lambda: None  # raises LinkError where the head is gone; to be called now and then

    def wanted(self) -> int:
        """How many there should be by now: nodes may have joined."""
        return self.options.actors or max(_fitting(self.ray, self.needs), 1)


def check_pool(options: PoolOptions) -> None:
    """Raises ConfigError without Ray, with another one, for a wrong address, and for a cluster without its token
    authentication: whoever may join it runs code in the actors; LinkError where none is there."""
    if not 0 <= options.actors <= MOST_ACTORS:
        raise ConfigError(f"--ray-actors must be from 0 to {MOST_ACTORS}")
    check_ray(options.where, (), insecure=options.insecure, counted=True, flag="--ray-actors")
    if options.where != "local":  # before anything is read or written
        reachable(options.where)


@contextlib.contextmanager
def open_pool(options: PoolOptions, needs: Needs) -> Iterator[RayPool]:
    """The cluster, while the block runs. A local one has a node for each actor, and on each room for all of them, so
    that they find a place when one is gone. Raises ConfigError and LinkError."""
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what ends a run is said once, by us
    from cutset.cluster.launch.ray_connection import RayConnection

    nodes = max(1, options.actors)
    with _silent():
        connection = RayConnection(options.where, nodes=nodes, cpus=nodes * needs.cpus, insecure=options.insecure)
    with connection:
        import ray

        logging.getLogger("ray").setLevel(logging.CRITICAL)
        actors = options.actors or max(_fitting(ray, needs), 1)
        group, free = connection.place([{"CPU": needs.cpus}] * actors, ROOM)
        ray.util.remove_placement_group(group)  # the actors take these places themselves
        if free:
            raise LinkError(no_room([needs] * actors, connection.name, free, LESS))
        yield RayPool(ray, options, needs, actors, connection.check)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """What Ray's own code writes while it connects is thrown away, and later what processes write that it starts."""
    if os.environ.get("CUTSET_DEBUG"):
        yield
        return
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _fitting(ray: Any, needs: Needs) -> int:
    """Nodes on which an actor would find room if they did nothing else."""
    return sum(bool(node["Alive"]) and node["Resources"].get("CPU", 0) >= needs.cpus for node in ray.nodes())


def settle(directory: str) -> None:
    """An actor's first step: the usual priority, for Ray starts it last of all, and the directory in which names of
    files are meant. Raises ConfigError where the node hasn't got that."""
    with contextlib.suppress(OSError):  # only some may take that back
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    try:
        os.chdir(Path(directory))
    except OSError as error:
        raise ConfigError(
            f"a node of the cluster can't use {directory}: {error.strerror}: what a batch reads must be found under "
            "the same names on all nodes"
        ) from None
