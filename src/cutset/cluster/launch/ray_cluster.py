"""Ray itself, as far as it is used: nodes, a placement group, and one actor for each party.

In the driver's process alone. No value of a model goes through Ray: neither its transport nor its object store nor
compiled graphs carry tensors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutset.cluster.launch.party_cluster import PartyEvent
from cutset.cluster.launch.party_needs import Needs
from cutset.cluster.launch.ray_connection import RayConnection, reason_of
from cutset.cluster.launch.ray_party import RayParty
from cutset.errors import ConfigError

__all__ = ["ActorAttempt", "RayCluster"]

SLIVER = 0.001  # of a node's own resource, by which a party is bound to it
WHOLE_NODE = "node:"  # what Ray calls that resource, before the address


@dataclass(eq=False)
class ActorAttempt:
    """One actor, and what is waited for: `there` says that its party runs."""

    actor: Any
    pending: Any
    there: bool = False


class RayCluster:
    """See PartyCluster."""

    def __init__(self) -> None:
        self._connection: RayConnection | None = None
        self._groups: dict[str, tuple[Any, int]] = {}  # of each party, and which of its bundles is the party's
        self._needs: dict[str, dict[str, Any]] = {}

    def open(self, order: Mapping[str, Any]) -> str:
        """See PartyCluster."""
        self._connection = RayConnection(
            str(order["where"]),
            nodes=int(order["nodes"]),
            cpus=order["cpus"],
            gpus=order["gpus"],
            insecure=order["insecure"],
            folder=Path(order["folder"]) if order["folder"] else None,
            token=str(order["token"]),
        )
        return self._connection.address

    def reserve(self, needs: Mapping[str, Needs], seconds: float) -> str:
        """See PartyCluster."""
        import ray

        assert self._connection is not None
        there = ray.cluster_resources()
        found = {name: _resources(one, there) for name, one in needs.items()}
        group, free = self._connection.place([_bundle(one) for one in found.values()], seconds)
        self._needs |= found
        self._groups |= {name: (group, index) for index, name in enumerate(found)}
        return free

    def release(self, name: str) -> None:
        """See PartyCluster."""
        import ray

        group, _ = self._groups.pop(name)
        with contextlib.suppress(Exception):  # the cluster may be gone
            ray.util.remove_placement_group(group)

    def begin(self, name: str, order: Mapping[str, Any]) -> ActorAttempt:
        """See PartyCluster."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group, index = self._groups[name]
        where = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
        made = ray.remote(RayParty).options(scheduling_strategy=where, max_restarts=0, **self._needs[name])
        actor = made.remote()
        return ActorAttempt(actor, actor.begin.remote(dict(order)))

    def wait(self, attempts: Sequence[ActorAttempt], seconds: float) -> list[PartyEvent]:
        """See PartyCluster."""
        import ray

        pending = {attempt.pending: attempt for attempt in attempts}
        done, _ = ray.wait(list(pending), timeout=seconds)
        found = []
        for ref in done:
            attempt = pending[ref]
            try:
                came = ray.get(ref, timeout=seconds + 5.0)
            except Exception as error:  # of the party, or of Ray: either way it isn't there
                found.append(PartyEvent(attempt, why=reason_of(error)))
                continue
            if attempt.there:
                found.append(PartyEvent(attempt, why=str(came)))
            else:
                attempt.there, attempt.pending = True, attempt.actor.wait.remote()
                place = {"address": str(came["address"]), "key": str(came["key"]), "node": str(came["host"])}
                found.append(PartyEvent(attempt, place | {"pid": int(came["pid"])}))
        return found

    def end(self, attempt: ActorAttempt) -> None:
        """See PartyCluster."""
        import ray

        with contextlib.suppress(Exception):  # it may be gone, with its node or with the cluster
            ray.kill(attempt.actor, no_restart=True)

    def free(self) -> str:
        """See PartyCluster."""
        return self._connection.free() if self._connection is not None else ""

    def close(self) -> None:
        """See PartyCluster."""
        if self._connection is None:
            return
        import ray

        if ray.is_initialized():
            for group in {id(group): group for group, _ in self._groups.values()}.values():
                with contextlib.suppress(Exception):
                    ray.util.remove_placement_group(group)
        self._connection.close()


def _resources(needs: Needs, there: Mapping[str, float]) -> dict[str, Any]:
    """As options of an actor. Raises ConfigError for a node that the cluster hasn't got."""
    own = dict(needs.resources)
    if needs.node:
        known = [name for name in (f"{WHOLE_NODE}{needs.node}", needs.node) if name in there]
        if not known:
            raise ConfigError(
                f"--place: no node of the cluster is {needs.node!r}: name a node's address, or start it with `ray "
                f"start --resources='{{\"{needs.node}\": 1}}'`"
            )
        own[known[0]] = SLIVER
    found: dict[str, Any] = {"num_cpus": needs.cpus, "num_gpus": needs.gpus, "resources": own}
    return found | ({"memory": needs.memory} if needs.memory else {})


def _bundle(options: Mapping[str, Any]) -> dict[str, float]:
    """The same as a bundle of a placement group."""
    words = {"CPU": options["num_cpus"], "GPU": options["num_gpus"], "memory": options.get("memory", 0)}
    return {name: float(amount) for name, amount in (words | options["resources"]).items() if amount}
