"""JSON schemas of the fields that our manifests use of kinds that Kubernetes itself doesn't have.

Names, types and what is required are those of the custom resource definitions:
ray.io/v1 RayCluster: ray-project/kuberay, ray-operator/config/crd/bases/ray.io_rayclusters.yaml (feeaf72facab)
leaderworkerset.x-k8s.io/v1: kubernetes-sigs/lws, config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml
(060ab4da17ee). Pod templates are checked by Kubernetes's own schema; `templates` finds them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["SCHEMAS", "templates"]

Schema = dict[str, Any]
COUNT: Schema = {"type": "integer", "minimum": 0}
TEMPLATE: Schema = {"type": "object", "required": ["spec"]}
START: Schema = {"type": "object", "additionalProperties": {"type": "string"}}


def closed(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


def kind(version: str, name: str, spec: Schema) -> Schema:
    """A whole object; its metadata are checked with those of its pods."""
    head = {"apiVersion": {"const": version}, "kind": {"const": name}, "metadata": {"type": "object"}}
    return closed(["apiVersion", "kind", "metadata", "spec"], **head, spec=spec)


RAY_CLUSTER = kind(
    "ray.io/v1",
    "RayCluster",
    closed(
        ["headGroupSpec"],
        rayVersion={"type": "string"},
        enableInTreeAutoscaling={"type": "boolean"},
        authOptions=closed([], mode={"enum": ["disabled", "token"]}, secretName={"type": "string"}),
        headGroupSpec=closed(
            ["template"],
            serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
            rayStartParams=START,
            template=TEMPLATE,
        ),
        workerGroupSpecs={
            "type": "array",
            "items": closed(
                ["groupName", "maxReplicas", "minReplicas", "template"],
                groupName={"type": "string"},
                replicas=COUNT,
                minReplicas=COUNT,
                maxReplicas=COUNT,
                numOfHosts=COUNT,
                rayStartParams=START,
                template=TEMPLATE,
            ),
        },
    ),
)
LEADER_WORKER_SET = kind(
    "leaderworkerset.x-k8s.io/v1",
    "LeaderWorkerSet",
    closed(
        ["leaderWorkerTemplate"],
        replicas=COUNT,
        startupPolicy={"enum": ["LeaderCreated", "LeaderReady"]},
        rolloutStrategy=closed(
            ["type"],
            type={"enum": ["RollingUpdate"]},
            rollingUpdateConfiguration=closed([], maxUnavailable=COUNT, maxSurge=COUNT, partition=COUNT),
        ),
        leaderWorkerTemplate=closed(
            ["workerTemplate"],
            size={"type": "integer", "minimum": 1},
            restartPolicy={"enum": ["Default", "RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "None"]},
            leaderTemplate=TEMPLATE,
            workerTemplate=TEMPLATE,
        ),
    ),
)
SCHEMAS: dict[str, Schema] = {"RayCluster": RAY_CLUSTER, "LeaderWorkerSet": LEADER_WORKER_SET}


def templates(content: Any) -> Iterator[dict[str, Any]]:
    """All pod templates within an object."""
    if isinstance(content, dict):
        for name, value in content.items():
            if name in ("template", "leaderTemplate", "workerTemplate"):
                yield value
            else:
                yield from templates(value)
    elif isinstance(content, list):
        for value in content:
            yield from templates(value)
