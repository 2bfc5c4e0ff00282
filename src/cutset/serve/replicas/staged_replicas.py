"""Replicas in several stages each, which Ray places on the nodes of a cluster.

What runs an engine's steps holds no weights where there are stages: so these processes are beside the front, and each
has Ray place its stages. Nothing that Ray starts gets Ray's token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from cutset.cluster.launch.party_evidence import PartyEvidence
from cutset.cluster.launch.party_needs import Needs
from cutset.cluster.launch.ray_launcher import RayLauncher, RayOptions
from cutset.config import Settings
from cutset.link.keys import Keys
from cutset.serve.replicas.replica_launchers import LaunchedReplica, LocalReplicas
from cutset.serve.replicas.replica_scale import ReplicaScale

__all__ = ["StagedReplicas"]


class StagedReplicas:
    """A ReplicaLauncher. A local cluster is started once for all of them, and ends with them. Raises CutsetError where
    it can't be started."""

    def __init__(
        self,
        model: str,
        settings: Settings,
        options: RayOptions,
        scale: ReplicaScale,
        *,
        adapters: Mapping[str, str] | None = None,
        report: Callable[[str], None] = lambda line: None,
        evidence: PartyEvidence | None = None,  # what each shows; its stages' is a setting
    ) -> None:
        assert isinstance(settings.stages, int)
        self._cluster: RayLauncher | None = None
        env: dict[str, str] = {}
        threads = settings.threads or 1  # of each stage
        if options.where == "local":
            threads = max(1, settings.thread_count // scale.most)
            each = Needs(float(max(1, threads // settings.stages)))
            self._cluster = RayLauncher({}, options, room=[each] * scale.most * settings.stages, log=report)
            settings = replace(settings, ray=self._cluster.cluster)
            threads = int(each.cpus)
            env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self._cluster.token}
        try:
            self._replicas = LocalReplicas(
                model, settings, threads=threads, adapters=adapters, env=env, report=report, evidence=evidence
            )
        except BaseException:
            self.close()
            raise

    @property
    def keys(self) -> Keys | None:
        """See LocalReplicas."""
        return self._replicas.keys

    def start(self, name: str) -> LaunchedReplica:
        """See ReplicaLauncher."""
        return self._replicas.start(name)

    def close(self) -> None:
        """See ReplicaLauncher."""
        if hasattr(self, "_replicas"):
            self._replicas.close()
        if self._cluster is not None:
            self._cluster.close()
