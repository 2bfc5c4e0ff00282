"""The manifests of deploy/kubernetes: by the official schemas, and what they promise."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.deploy.custom_kinds import SCHEMAS, templates
from tests.deploy.kustomized import kustomized

ROOT = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
OVERLAYS = ["base", *(f"overlays/{name}" for name in ("replicas", "stages", "leaderworkerset", "ray", "ray-replicas"))]
VERSION = "1.37"
Object = dict[str, Any]


@pytest.fixture(scope="module", params=OVERLAYS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return kustomized(ROOT / request.param)


def pods(objects: list[Object]) -> Iterator[Object]:
    for one in objects:
        yield from templates(one.get("spec"))


def containers(objects: list[Object]) -> Iterator[Object]:
    for pod in pods(objects):
        yield from (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [one for one in objects if one["kind"] == kind]


def check(one: Object) -> None:
    """Raises where an object isn't one of its kind."""
    if one["kind"] in SCHEMAS:
        jsonschema.validate(one, SCHEMAS[one["kind"]])
    else:
        kubernetes_validate.validate(one, VERSION, strict=True)
    for pod in templates(one.get("spec")):
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"} | pod.get("metadata", {})}
        kubernetes_validate.validate(whole | {"spec": pod["spec"]}, VERSION, strict=True)


def test_every_overlay_is_tested() -> None:
    assert sorted(OVERLAYS) == sorted(
        path.parent.relative_to(ROOT).as_posix() for path in ROOT.rglob("kustomization.yaml")
    )


def test_every_file_is_part_of_an_overlay() -> None:
    for path in ROOT.rglob("*.yaml"):
        told = yaml.safe_load((path.parent / "kustomization.yaml").read_text())
        named = [*told["resources"], *(one.get("path") for one in told.get("patches", ()))]
        assert path.name == "kustomization.yaml" or path.name in named, f"{path} is part of nothing"


def test_objects_are_what_their_schemas_say(objects: list[Object]) -> None:
    for one in objects:
        check(one)


def test_wrong_objects_are_found() -> None:
    [server] = of_kind(kustomized(ROOT / "base"), "Deployment")
    server["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["httpGett"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        check(server)
    [group] = of_kind(kustomized(ROOT / "overlays/leaderworkerset"), "LeaderWorkerSet")
    group["spec"]["leaderWorkerTemplate"]["sizes"] = 3
    with pytest.raises(jsonschema.ValidationError):
        check(group)
    [cluster] = of_kind(kustomized(ROOT / "overlays/ray"), "RayCluster")
    cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["imagee"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError):
        check(cluster)


def test_nobody_is_root_or_gains_rights(objects: list[Object]) -> None:
    for pod in pods(objects):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert not any("hostPath" in volume for volume in spec.get("volumes", ()))
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    for one in containers(objects):
        assert one["securityContext"]["allowPrivilegeEscalation"] is False
        assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert one["securityContext"].get("readOnlyRootFilesystem") or one["image"] == "cutset-ray"


def test_all_have_resources_and_servers_have_probes(objects: list[Object]) -> None:
    for one in containers(objects):
        assert one["resources"]["requests"].keys() >= {"cpu", "memory"}
        assert "memory" in one["resources"]["limits"]
    servers = [one for one in containers(objects) if one["name"] == "server"]
    assert servers
    for one in servers:
        assert one["startupProbe"]["httpGet"] == {"path": "/health", "port": "http"}
        assert one["readinessProbe"]["httpGet"] == {"path": "/health", "port": "http"}
        assert "tcpSocket" in one["livenessProbe"]


def test_secrets_are_mounted_and_never_written_out(objects: list[Object]) -> None:
    assert not of_kind(objects, "Secret"), "they are made by hand, or by an operator"
    for one in containers(objects):
        words = " ".join([*one.get("args", ()), *one.get("command", ())])
        assert "--api-key=" not in words
        for variable in one.get("env", ()):
            assert "value" not in variable or variable["name"] == "RAY_AUTH_MODE"
    readme = (ROOT / "README.md").read_text()
    for pod in pods(objects):
        for volume in pod["spec"].get("volumes", ()):
            named = [
                volume.get("secret", {}).get("secretName"),
                volume.get("configMap", {}).get("name"),
                volume.get("persistentVolumeClaim", {}).get("claimName"),
            ]
            assert all(name in readme for name in named if name), f"README doesn't say how {volume['name']} is made"


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector means a pod."""
    for one in selector.get("matchExpressions", ()):
        assert one["operator"] == "In"
        if labels.get(one["key"]) not in one["values"]:
            return False
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())


def labels(pod: Object) -> dict[str, str]:
    return pod["metadata"]["labels"]


def test_selectors_find_pods(objects: list[Object]) -> None:
    every = [labels(pod) for pod in pods(objects)]
    for one in objects:
        spec = one.get("spec", {})
        selector = spec.get("selector") or spec.get("podSelector")
        if one["kind"] == "Service":
            selector = {"matchLabels": selector}
        if selector and one["kind"] in ("Service", "Deployment", "StatefulSet", "PodDisruptionBudget", "NetworkPolicy"):
            assert any(selects(selector, each) for each in every), f"{one['kind']} {one['metadata']['name']}"
    budgets = of_kind(objects, "PodDisruptionBudget")
    for pod in pods(objects):
        if labels(pod)["app.kubernetes.io/component"] == "stage" and of_kind(objects, "LeaderWorkerSet"):
            continue  # a group's pods go together with their server, which has a budget
        assert any(selects(budget["spec"]["selector"], labels(pod)) for budget in budgets), labels(pod)


VARIABLE = re.compile(r"\$\(([A-Z_]+)\)")
GIVEN = ("POD_NAME", "LWS_LEADER_ADDRESS", "LWS_WORKER_INDEX")  # by Kubernetes and LeaderWorkerSet, to each pod


def test_values_in_commands_are_those_of_the_config_map(objects: list[Object]) -> None:
    """What an overlay of one's own changes: the model, and how many stages or replicas there are."""
    [values] = [one["data"] for one in of_kind(objects, "ConfigMap")]
    for one in containers(objects):
        words = " ".join([*one.get("args", ()), *one.get("command", ())])
        for name in VARIABLE.findall(words):
            assert name in GIVEN or (name in values and {"configMapRef": {"name": "cutset"}} in one["envFrom"]), name


def allowed(objects: list[Object], source: dict[str, str], target: dict[str, str], port: int) -> bool:
    """Whether policies let one pod dial another one: by the egress of the first and the ingress of the second."""
    policies = of_kind(objects, "NetworkPolicy")

    def side(pod: dict[str, str], other: dict[str, str], way: str, peers: str) -> bool:
        own = [one["spec"] for one in policies if selects(one["spec"]["podSelector"], pod)]
        own = [spec for spec in own if way in spec["policyTypes"]]
        rules = [rule for spec in own for rule in spec.get(way.lower(), ())]
        return not own or any(
            any("namespaceSelector" not in peer and selects(peer["podSelector"], other) for peer in rule[peers])
            and ("ports" not in rule or any(one["port"] == port for one in rule["ports"]))
            for rule in rules
        )

    return side(source, target, "Egress", "to") and side(target, source, "Ingress", "from")


RAY_LINKS = [("server", "ray", 6379), ("ray", "ray", 12345), ("ray", "server", 12345), ("server", "server", 1)]
LINKS: dict[str, list[tuple[str, str, int]]] = {  # who dials whom, at which port
    "base": [],
    "overlays/replicas": [("server", "replica", 7000)],
    "overlays/stages": [("server", "stage", 7001), ("stage", "stage", 7001)],
    "overlays/leaderworkerset": [("stage", "server", 7100)],
    "overlays/ray": RAY_LINKS,
    "overlays/ray-replicas": RAY_LINKS,
}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_policies_let_links_through_and_nothing_else(overlay: str) -> None:
    objects = kustomized(ROOT / overlay)
    kinds = {labels(pod)["app.kubernetes.io/component"]: labels(pod) for pod in pods(objects)}
    assert len(kinds) == {"base": 1}.get(overlay, 2)
    ports = sorted({port for _, _, port in LINKS[overlay]} | {22, 7000, 7001, 7100, 8000})
    for source in kinds:
        for target in kinds:
            for port in ports:
                wanted = (source, target, port) in LINKS[overlay] or LINKS[overlay] is RAY_LINKS
                found = allowed(objects, kinds[source], kinds[target], port)
                assert found == wanted, f"{source} to {target}, port {port}"
    stranger = {"app": "stranger"}
    for target in kinds.values():
        assert not any(allowed(objects, stranger, target, port) for port in ports)


def test_links_end_where_somebody_listens(objects: list[Object]) -> None:
    """Addresses in flags are those of pods of this overlay, at ports that they have."""
    services = {one["metadata"]["name"]: one["spec"] for one in of_kind(objects, "Service")}
    sets = {one["metadata"]["name"]: one["spec"] for one in of_kind(objects, "StatefulSet")}
    for one in containers(objects):
        for word in one.get("args", ()):
            for address in word.split("=", 1)[-1].split(","):
                if not address.startswith("tcp://cutset-"):
                    continue
                host, port = address.removeprefix("tcp://").split(":")
                pod, service = host.split(".")
                name, number = pod.rsplit("-", 1)
                assert sets[name]["serviceName"] == service
                assert int(number) < sets[name]["replicas"]
                assert services[service]["clusterIP"] == "None"
                [container] = sets[name]["template"]["spec"]["containers"]
                assert [each["containerPort"] for each in container["ports"]] == [int(port)]
