"""One way to a Ray cluster for all that use one: found, or started here for a run, and seen to keep strangers out."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cutset.cluster.launch.ray_address import check_refuses_others, reachable, unreachable
from cutset.cluster.launch.run_folder import RunFolder
from cutset.errors import CutsetError, LinkError

__all__ = ["RayConnection", "reason_of"]

LOOPBACK = "127.0.0.1"  # with which Ray's processes listen there alone
MOST_NODES = 8  # of a local cluster: each is half a dozen processes
STORE = 80 << 20  # bytes of a local node's object store; Ray wants 75 MiB
ASKING = 10.0  # seconds that the head may take to say where its nodes are
STARTING = 90.0  # seconds until all local nodes must be there
LOOKING, GONE = 5.0, 30.0  # seconds between two looks for the head, and without it; Ray would end us after a minute
ENDING = 15.0  # seconds that Ray gets to end


class RayConnection:
    """This process's connection to a cluster, of which it can have one; a local cluster ends with it.

    Raises LinkError where there is no such cluster, or it doesn't take this side; ConfigError where it lets anybody in.
    """

    def __init__(
        self,
        where: str,
        *,
        nodes: int,
        cpus: float,
        gpus: float = 0,
        insecure: bool = False,
        folder: Path | None = None,
        token: str = "",
    ) -> None:
        """`where`: local, auto or HOST:PORT. Of a local cluster: so many `nodes` (8 at most), `cpus` of each and `gpus`
        of the first; `folder` is for its files, and is removed in the end; `token`: its own, "" for a new one."""
        self.address = ""
        self._looked = self._seen = time.monotonic()
        self._local: Any = None
        self._joined: Any = None  # a node of this side's own in somebody else's cluster
        self._folder = folder
        self._own: RunFolder | None = None  # where no folder was given
        logging.getLogger("ray").setLevel(logging.ERROR)
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # it sends nothing to its makers
        try:
            if where == "local":
                self._protect(token)
                address = self._start_nodes(nodes, cpus, gpus)
            else:
                address = reachable(where)
            self._connect(address)
            if self._local is None and not insecure:
                check_refuses_others(self.address)
        except (CutsetError, KeyboardInterrupt):
            self.close()
            raise
        except Exception as error:  # whatever Ray raises
            self.close()
            what = "no local Ray cluster could be started" if where == "local" else f"the Ray cluster at {where} failed"
            raise LinkError(f"{what}: {type(error).__name__}: {reason_of(error)[:300]}") from error

    def _protect(self, token: str) -> None:
        # A token for this cluster alone: nobody else on this machine may use it.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token or secrets.token_hex(32)}
        os.environ.pop("RAY_AUTH_TOKEN_PATH", None)
        # No processes for tasks that nobody will ask for; and what is placed computes at the usual priority.
        os.environ |= {"RAY_enable_worker_prestart": "0", "RAY_worker_niceness": "0"}
        # No figures of nodes and tasks for a dashboard that there isn't.
        os.environ |= {"RAY_enable_metrics_collection": "0", "RAY_task_events_report_interval_ms": "0"}

    def _start_nodes(self, nodes: int, cpus: float, gpus: float) -> str:
        import ray._private.utils
        from ray.cluster_utils import Cluster

        # Nobody else's `auto` shall find this cluster: its address is written nowhere.
        ray._private.utils.write_ray_address = ray._private.utils.reset_ray_address = lambda *where: None
        _stay_on_loopback()
        node = {"num_cpus": cpus, "node_ip_address": LOOPBACK, "object_store_memory": STORE}
        # Ray lets everybody into its directory, with its sockets and logs: so it lies in one that is this user's alone.
        place = self._folder
        if place is None:
            self._own = RunFolder()
            place = self._own.path
        head = node | {"include_dashboard": False, "dashboard_host": LOOPBACK, "temp_dir": str(place / "ray")}
        if gpus:
            head["num_gpus"] = gpus
        self._local = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(min(nodes, MOST_NODES) - 1):
            self._local.add_node(wait=False, **node)
        self._local.wait_for_nodes(STARTING)
        return str(self._local.address)

    def _connect(self, where: str) -> None:
        import ray
        import ray._private.worker
        from ray.exceptions import AuthenticationError

        # What was lost is said by whoever asked for it, in a line; Ray would print pages of it to stdout.
        ray._private.worker.print_to_stdstream = lambda *what, **more: None
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
        self.address = str(context.address_info["gcs_address"])

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

    def check(self) -> None:
        """Call it now and then: raises LinkError where the head has been gone for a while."""
        now = time.monotonic()
        if now - self._looked < LOOKING:
            return
        self._looked = now
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), LOOKING).close()
            self._seen = time.monotonic()
        except OSError as error:
            if now - self._seen > GONE:
                raise LinkError(
                    f"the head of {self.name} is gone ({error.strerror or error}): start it again, or another"
                ) from None

    @property
    def name(self) -> str:
        """For messages."""
        return f"the Ray cluster at {self.address}"

    def place(self, bundles: Sequence[Mapping[str, float]], seconds: float) -> tuple[Any, str]:
        """A placement group with a place for each of these, spread over the nodes; and "", or what is free where there
        is no room for all within so many seconds; with 0 seconds it waits for none."""
        from ray.util import placement_group

        group = placement_group([dict(one) for one in bundles], strategy="SPREAD")
        return group, "" if not seconds or group.wait(seconds) else self.free() or "nothing"

    def free(self) -> str:
        """What is free on each node, in words."""
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
        """Ends the connection, and a local cluster. A second call does nothing."""
        import ray

        local, self._local = self._local, None
        atexit.unregister(ray.shutdown)  # without a head it would wait for ever, at the end of this process too
        ending = threading.Thread(target=_shut_down, name="cutset-ray-end", daemon=True)
        ending.start()
        ending.join(ENDING)
        joined, self._joined = self._joined, None
        if joined is not None:
            with contextlib.suppress(Exception):
                joined.kill_all_processes(check_alive=False, allow_graceful=True)
        if local is not None:
            with contextlib.suppress(Exception):
                local.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._own is not None:
            self._own.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _shut_down() -> None:
    import ray

    with contextlib.suppress(Exception):
        if ray.is_initialized():
            ray.shutdown()


def _stay_on_loopback() -> None:
    """When Ray dials the loopback address it takes another one of this machine, where nobody may listen: from now on it
    takes the one that it is given."""
    import ray._private.services

    ray._private.services.resolve_ip_for_localhost = lambda host: host


def _refused(where: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "ersion mismatch" in text:
        text = f"it has another version of Ray or Python than this side: {text[:200]}"
    return f"the Ray cluster at {where} can't be used: {text[:300]}"


def reason_of(error: BaseException) -> str:
    """Why what ran on a node failed, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "ModuleNotFoundError" in str(error) and "cutset" in str(error):
        return "its node has no Cutset: install this version there, with the same Python (pip install cutset)"
    if type(error).__name__ in ("ActorDiedError", "RayActorError", "ActorUnavailableError", "NodeDiedError"):
        gone = next((line for line in lines if "node" in line.lower() and "died" in line.lower()), "")
        return f"its node is gone: {gone}" if gone else f"its actor died: {lines[-1] if lines else ''}"
    return lines[-1] if lines else type(error).__name__
