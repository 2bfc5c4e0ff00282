"""Ray itself, as far as it is used: nodes, a placement group, and one actor for each party.

The one module that imports Ray, in the driver's process alone. No value of a model goes through it: neither Ray's
transport nor its object store nor compiled graphs carry tensors.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from cutset.cluster.launch.party_cluster import PartyEvent
from cutset.cluster.launch.party_needs import Needs
from cutset.cluster.launch.ray_address import check_refuses_others, reachable, unreachable
from cutset.cluster.launch.ray_party import RayParty
from cutset.errors import ConfigError, LinkError

__all__ = ["ActorAttempt", "RayCluster"]

LOOPBACK = "127.0.0.1"  # with which Ray's processes listen there alone
MOST_NODES = 8  # of a local cluster: each is half a dozen processes
STORE = 80 << 20  # bytes of a local node's object store, in which nothing lies; Ray wants 75 MiB
ASKING = 10.0  # seconds that the head may take to say where its nodes are
STARTING = 90.0  # seconds until all local nodes must be there
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
        self._local: Any = None
        self._joined: Any = None  # a node of this side's own in somebody else's cluster
        self._folder: Path | None = None  # of a local cluster
        self._groups: dict[str, tuple[Any, int]] = {}  # of each party, and which of its bundles is the party's
        self._needs: dict[str, dict[str, Any]] = {}
        self._address = ""

    def open(self, order: Mapping[str, Any]) -> str:
        """See PartyCluster."""
        where = str(order["where"])
        logging.getLogger("ray").setLevel(logging.ERROR)
        if where == "local":
            # A token for this cluster alone: nobody else on this machine may use it.
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": str(order["token"])}
            os.environ.pop("RAY_AUTH_TOKEN_PATH", None)
            # No processes for tasks that nobody will ask for; and parties compute at the usual priority.
            os.environ |= {"RAY_enable_worker_prestart": "0", "RAY_worker_niceness": "0"}
            # No figures of nodes and tasks for a dashboard that there isn't.
            os.environ |= {"RAY_enable_metrics_collection": "0", "RAY_task_events_report_interval_ms": "0"}
            where = self._start_nodes(order)
        else:
            where = reachable(where)
        import ray
        from ray.exceptions import AuthenticationError

        try:
            loopback = self._local is not None or self._be_a_node(where)
            context = ray.init(
                address=where,
                namespace=f"cutset-{secrets.token_hex(8)}",
                configure_logging=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
                **({"_node_ip_address": LOOPBACK} if loopback else {}),
            )
        except AuthenticationError:
            raise LinkError(
                f"the Ray cluster at {where} refused this side's token: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to "
                "the cluster's"
            ) from None
        except ConnectionError as error:
            raise LinkError(unreachable(where, error)) from None
        except (RuntimeError, ValueError) as error:
            raise LinkError(_refused(where, error)) from None
        self._address = str(context.address_info["gcs_address"])
        if self._local is None and not order["insecure"]:
            check_refuses_others(self._address)
        return self._address

    def _start_nodes(self, order: Mapping[str, Any]) -> str:
        import ray._private.utils
        from ray.cluster_utils import Cluster

        # Nobody else's `auto` shall find this cluster: its address is written nowhere.
        ray._private.utils.write_ray_address = ray._private.utils.reset_ray_address = lambda *where: None
        _stay_on_loopback()
        node = {"num_cpus": order["cpus"], "node_ip_address": LOOPBACK, "object_store_memory": STORE}
        # Ray lets everybody into its directory, with its sockets and logs: so it lies in one that is this user's alone.
        self._folder = Path(order["folder"])
        place = str(self._folder / "ray")
        head = node | {"include_dashboard": False, "dashboard_host": LOOPBACK, "temp_dir": place}
        if order["gpus"]:
            head["num_gpus"] = order["gpus"]
        self._local = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(min(int(order["nodes"]), MOST_NODES) - 1):
            self._local.add_node(wait=False, **node)
        self._local.wait_for_nodes(STARTING)
        return str(self._local.address)

    def _be_a_node(self, where: str) -> bool:
        """Ray lets a driver in by a node on its machine alone. Where there is none, this side joins as one without
        processors, on which nothing is placed. Whether nodes are at the loopback address."""
        from ray._private import services

        compiled: Any = import_module("ray._raylet")  # whose types nobody declares
        nodes = compiled.GcsClient(address=where).get_all_node_info(timeout=ASKING)
        alive = {name.hex(): node for name, node in nodes.items() if node.state == node.ALIVE}
        loopback = where.startswith(f"{LOOPBACK}:") and any(
            node.node_manager_address == LOOPBACK for node in alive.values()
        )
        if loopback:
            _stay_on_loopback()
        if not alive.keys() & set(services.find_node_ids()):
            from ray._private.node import Node
            from ray._private.parameter import RayParams

            here = {"node_ip_address": LOOPBACK} if loopback else {}
            nothing = {"num_cpus": 0, "num_gpus": 0, "memory": 0, "min_worker_port": 0, "max_worker_port": 0}
            params = RayParams(gcs_address=where, object_store_memory=STORE, **nothing, **here)
            self._joined = Node(params, head=False, shutdown_at_exit=True, spawn_reaper=True)
        return loopback

    def reserve(self, needs: Mapping[str, Needs], seconds: float) -> str:
        """See PartyCluster."""
        import ray
        from ray.util import placement_group

        there = ray.cluster_resources()
        found = {name: _resources(one, there) for name, one in needs.items()}
        group = placement_group([_bundle(one) for one in found.values()], strategy="SPREAD")
        self._needs |= found
        self._groups |= {name: (group, index) for index, name in enumerate(found)}
        return "" if not seconds or group.wait(seconds) else self.free() or "nothing"

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
                found.append(PartyEvent(attempt, why=_reason(error)))
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
        import ray
        from ray._private.state import available_resources_per_node

        free, words = available_resources_per_node(), []
        for node in ray.nodes():
            if not node["Alive"]:
                continue
            has, total = free.get(node["NodeID"], {}), node["Resources"]
            gpus = f", {has.get('GPU', 0):g} of {total['GPU']:g} GPU" if total.get("GPU") else ""
            words.append(
                f"{node['NodeManagerAddress']} {has.get('CPU', 0):g} of {total.get('CPU', 0):g} CPU{gpus}, "
                f"{has.get('memory', 0) / 2**20:,.0f} MiB"
            )
        more = f" and {len(words) - 6} nodes more" if len(words) > 6 else ""
        return "; ".join(words[:6]) + more

    def close(self) -> None:
        """See PartyCluster."""
        import ray

        if ray.is_initialized():
            for group in {id(group): group for group, _ in self._groups.values()}.values():
                with contextlib.suppress(Exception):
                    ray.util.remove_placement_group(group)
            with contextlib.suppress(Exception):
                ray.shutdown()
        if self._joined is not None:
            with contextlib.suppress(Exception):
                self._joined.kill_all_processes(check_alive=False, allow_graceful=True)
        if self._local is not None:
            with contextlib.suppress(Exception):
                self._local.shutdown()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)


def _stay_on_loopback() -> None:
    """When Ray dials the loopback address it takes another one of this machine, where nobody may listen: from now on it
    takes the one that it is given."""
    import ray._private.services

    ray._private.services.resolve_ip_for_localhost = lambda host: host


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


def _refused(where: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "ersion mismatch" in text:
        text = f"it has another version of Ray or Python than this side: {text[:200]}"
    return f"the Ray cluster at {where} can't be used: {text[:300]}"


def _reason(error: Exception) -> str:
    """Why an attempt failed, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "ModuleNotFoundError" in str(error) and "cutset" in str(error):
        return "its node has no Cutset: install this version there, with the same Python (pip install cutset)"
    if type(error).__name__ in ("ActorDiedError", "RayActorError", "ActorUnavailableError", "NodeDiedError"):
        gone = next((line for line in lines if "node" in line.lower() and "died" in line.lower()), "")
        return f"its node is gone: {gone}" if gone else f"its actor died: {lines[-1] if lines else ''}"
    return lines[-1] if lines else type(error).__name__
