"""Names for the nodes of an exported program, from the modules that they belong to."""

from __future__ import annotations

from collections import Counter
from typing import Any

from cutset.partition.node import short_name

__all__ = ["node_names", "place"]


def place(node: Any) -> tuple[str, str]:
    """The path of the module that a node belongs to, and a key that distinguishes its calls."""
    stack = node.meta.get("nn_module_stack") or {}
    key = next(reversed(stack), "")
    return (str(stack[key][0]), str(key)) if stack else ("", "")


def node_names(nodes: list[Any], taken: set[str]) -> dict[Any, str]:
    """A unique name for each node: `features.0`, `layer1.0.add`, `layer1.0.relu#2` for the second call of a module."""
    places = {node: place(node) for node in nodes}
    calls = Counter(places.values())
    outer = {path[:i] for path, _ in calls for i, letter in enumerate(path) if letter == "."}
    names, seen = {}, Counter(taken)
    for node in nodes:
        path, _ = places[node]
        name = path
        if not path or path in outer or calls[places[node]] > 1:
            name = ".".join(
                filter(None, (path, short_name(str(node.target)) if "." in str(node.target) else node.name))
            )
        seen[name] += 1
        names[node] = name if seen[name] == 1 else f"{name}#{seen[name]}"
    return names
