"""Keywords of a JSON schema whose values are schemas: what else stands there is refused by the keyword's name."""

from __future__ import annotations

from typing import Any

from cutset.errors import RequestError

__all__ = ["check_forms"]

PARTS = frozenset({"items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"})
LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
TABLES = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})


def check_forms(what: str, schema: Any) -> None:
    """Raises RequestError for a keyword of a schema, or of one in it, that has no schemas where it takes some. Without
    recursion, and unknown keywords may have anything."""
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, dict):
            continue
        for name, value in node.items():
            found: list[Any] | None = []
            wanted = "a schema: an object, true or false"
            if name in PARTS:
                found = [value]
            elif name in LISTS:
                found, wanted = value if isinstance(value, list) and value else None, "a list of schemas"
            elif name in TABLES:
                found, wanted = list(value.values()) if isinstance(value, dict) else None, "an object of schemas"
            elif name == "enum" and not (isinstance(value, list) and value):
                found, wanted = None, "a list with something in it"
            if found is None or not all(isinstance(one, dict | bool) for one in found):
                raise RequestError(f"{what}: `{name}` must be {wanted}")
            waiting += found
