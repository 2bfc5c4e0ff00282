"""Numbers under a schema come to an end, and stay numbers that the schema holds for."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest

from cutset.engine.grammar import Grammar
from cutset.engine.schema_numbers import with_short_numbers

from .test_grammar import fits

NUMBER, INTEGER = {"type": "number"}, {"type": "integer"}


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        (NUMBER, ["0", "-1.5", "3.1415926535", "123456789012345678"], ["3.14159265358", "1e5", "1" * 21]),
        (INTEGER, ["0", "-7", "8999999999999999999"], ["1" * 21, "-" + "1" * 21, "1.0"]),
        ({"type": "number", "minimum": 49, "maximum": 107}, ["49", "50.25", "107"], ["50.12345678901", "48"]),
        ({"type": "number", "exclusiveMinimum": 0}, ["0.1", "7"], ["0", "-1"]),
        ({"type": ["number", "null"]}, ["null", "2.5"], ["2.12345678901"]),
        ({"type": "number", "multipleOf": 0.5}, ["2.5"], ["2.25"]),
        ({"type": "number", "minimum": 1e-12, "maximum": 2e-12}, ["0.0000000000015"], ["0"]),
        ({"type": "number", "const": 0.123456789012}, ["0.123456789012"], ["0.1"]),
        ({"allOf": [NUMBER, {"const": 0.123456789012}]}, ["0.123456789012"], ["0.1"]),
        ({"enum": [1.5, 10**30]}, ["1.5", str(10**30)], ["2"]),
        ({"anyOf": [NUMBER, {"type": "string", "maxLength": 1}]}, ["1.5", '"a"'], ["1.12345678901"]),
        ({"$defs": {"n": NUMBER}, "$ref": "#/$defs/n"}, ["1.5"], ["1.12345678901"]),
        ({"type": "array", "items": NUMBER}, ["[1.5, 2]"], ["[1.12345678901]"]),
        ({"type": "array", "prefixItems": [NUMBER]}, ["[1.5]"], ["[1.12345678901]"]),
        ({"type": "object", "properties": {"type": NUMBER}}, ['{"type": 2}'], ['{"type": 1.12345678901}']),
        ({"type": "object", "additionalProperties": NUMBER}, ['{"a": 2}'], ['{"a": 1.12345678901}']),
    ],
)
def test_what_is_written(schema: Any, right: list[str], wrong: list[str]) -> None:
    for text in right:
        assert fits(Grammar.json_schema(schema), text), text
        jsonschema.validate(json.loads(text), schema)
    for text in wrong:
        assert not fits(Grammar.json_schema(schema), text), text


def test_what_says_nothing_of_numbers_stays() -> None:
    kept: list[Any] = [
        True,
        {},
        {"type": "string", "maxLength": 3},
        {"const": {"type": "number"}},
        {"enum": [{"type": "number"}]},
        {"default": {"type": "number"}, "type": "null"},
        {"oneOf": [NUMBER, {"type": "string"}]},  # apart from each other they must stay
        {"not": NUMBER},
        {"type": "number", "minimum": 1e300},
        {"type": ["string", 7]},
        {"type": {"a": 1}},
    ]
    for schema in kept:
        assert with_short_numbers(schema) == schema


def test_a_narrower_schema_holds_for_nothing_else() -> None:
    source = random.Random(3)
    for _ in range(300):
        low = source.uniform(-9, 9)
        schema = {"type": source.choice(["number", "integer"]), "minimum": round(low, source.randrange(4))}
        if source.random() < 0.5:
            schema["maximum"] = schema["minimum"] + source.randrange(1, 50)
        short = with_short_numbers(schema)
        for value in (low, round(low), round(low, 3), 10**19, 10.0**25, low + 7):
            if jsonschema.Draft202012Validator(short | {"multipleOf": 1e-3}).is_valid(value):
                jsonschema.validate(value, schema)
