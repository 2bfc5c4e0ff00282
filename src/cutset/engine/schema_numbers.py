"""Numbers that come to an end: models that may write digits for ever do so until the answer is cut off."""

from __future__ import annotations

from typing import Any

from cutset.engine.schema_bounds import DATA, MOST_BOUND

__all__ = ["with_short_numbers"]

DECIMALS = 10
STEP = 1e-10  # a number of that many decimals is a multiple of it
NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
# What a narrower part would make wider, or apart from others that it isn't apart from.
LEFT = frozenset({"not", "if", "oneOf", "contains", "propertyNames"})


def with_short_numbers(schema: Any) -> Any:
    """A schema for some of the texts that this one is for: without exponents, of at most 10 decimals, and where it says
    no bound, below 9·10^18. Numbers that need more (a bound, a constant) are left as they are."""
    if isinstance(schema, list):
        return [with_short_numbers(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for name, value in schema.items():
        if name in NAMED and isinstance(value, dict):
            found[name] = {key: with_short_numbers(one) for key, one in value.items()}
        else:
            found[name] = value if name in DATA or name in LEFT else with_short_numbers(value)
    return found | _bounds(found)


def _bounds(schema: dict[str, Any]) -> dict[str, Any]:
    """What is added to a schema of numbers."""
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not isinstance(kinds, list) or not {"number", "integer"}.intersection(
        one for one in kinds if isinstance(one, str)
    ):
        return {}
    if "const" in schema or "enum" in schema:
        return {}
    given = {
        name: schema[name] for name in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum") if name in schema
    }
    if not all(
        isinstance(one, int | float) and abs(one) <= MOST_BOUND and one == round(one, DECIMALS)
        for one in given.values()
    ):
        return {}
    more: dict[str, Any] = {}
    if not given.keys() & {"minimum", "exclusiveMinimum"}:
        more["minimum"] = -MOST_BOUND
    if not given.keys() & {"maximum", "exclusiveMaximum"}:
        more["maximum"] = MOST_BOUND
    if "number" in kinds and "multipleOf" not in schema:
        more["multipleOf"] = STEP
    return more
