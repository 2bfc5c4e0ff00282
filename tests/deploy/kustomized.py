"""What `kubectl kustomize` makes of a directory, as far as our files use it: resources, patches by strategic merge."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

__all__ = ["kustomized"]

Object = dict[str, Any]
# Lists that are merged, and by what; others are replaced.
KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
}


def kustomized(directory: Path) -> list[Object]:
    """The objects that a kustomization gives."""
    told = yaml.safe_load((directory / "kustomization.yaml").read_text())
    assert told["apiVersion"] == "kustomize.config.k8s.io/v1beta1"
    known = {"apiVersion", "kind", "namespace", "resources", "patches", "images", "configMapGenerator"}
    assert told.keys() <= known, "this test knows no more of kustomize"
    found: list[Object] = []
    for name in told["resources"]:
        place = directory / name
        found += kustomized(place) if place.is_dir() else documents(place)
    for generated in told.get("configMapGenerator", ()):
        data = dict(text.split("=", 1) for text in generated["literals"])
        if generated.get("behavior") == "merge":
            [target] = [one for one in found if identity(one) == ("v1", "ConfigMap", generated["name"])]
            target["data"] |= data
            continue
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generated["name"]}, "data": data})
    for patch in told.get("patches", ()):
        assert patch.keys() <= {"path", "patch"}
        text = patch.get("patch") or (directory / patch["path"]).read_text()
        for one in yaml.safe_load_all(text):
            [target] = [each for each in found if identity(each) == identity(one)]
            found.remove(target)
            if one.pop("$patch", "") != "delete":
                found.append(merged(target, one))
    for one in found:
        if one["kind"] != "Namespace":
            one["metadata"]["namespace"] = told["namespace"]
    return found


def documents(path: Path) -> list[Object]:
    return list(yaml.safe_load_all(path.read_text()))


def identity(one: Object) -> tuple[str, str, str]:
    return one["apiVersion"], one["kind"], one["metadata"]["name"]


def merged(base: Any, patch: Any, within: str = "") -> Any:
    """Strategic merge: maps by their keys, some lists by a key of their items."""
    if isinstance(base, dict) and isinstance(patch, dict):
        kept = patch.get("$retainKeys")
        found = {name: value for name, value in base.items() if kept is None or name in kept}
        for name, value in patch.items():
            if name != "$retainKeys":
                found[name] = merged(found[name], value, name) if name in found else copy.deepcopy(value)
        return found
    if isinstance(base, list) and isinstance(patch, list) and within in KEYS:
        key = KEYS[within]
        found_items = {item[key]: item for item in base}
        for item in patch:
            found_items[item[key]] = merged(found_items.get(item[key], {}), item)
        return list(found_items.values())
    return copy.deepcopy(patch)
