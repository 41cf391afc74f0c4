"""Holds JSON to docs/plan.schema.json: the part of JSON Schema that it is written in."""

from __future__ import annotations

import json
import re
from pathlib import Path

SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "plan.schema.json").read_text())
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}
KNOWN = {
    *("type", "properties", "required", "additionalProperties", "items", "minItems", "anyOf", "enum"),
    *("const", "minimum", "maximum", "exclusiveMinimum", "pattern"),
    *("$ref", "$defs", "$schema", "title", "description"),
}


def problems(value, schema=SCHEMA, at="plan"):
    """What is wrong with a value, and where."""
    assert schema.keys() <= KNOWN, schema.keys() - KNOWN
    if "$ref" in schema:
        yield from problems(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")], at)
        return
    if "anyOf" in schema:
        if all(list(problems(value, one, at)) for one in schema["anyOf"]):
            yield f"{at} is none of several"
        return
    if "const" in schema and value != schema["const"]:
        yield f"{at} is not {schema['const']}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at} is not among {schema['enum']}"
    if "type" in schema and not is_a(value, schema["type"]):
        yield f"{at} is no {schema['type']}"
        return
    if isinstance(value, dict):
        yield from of_object(value, schema, at)
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            yield f"{at} is too short"
        for index, one in enumerate(value):
            yield from problems(one, schema.get("items", {}), f"{at}[{index}]")
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        yield f"{at} is not like {schema['pattern']}"
    if isinstance(value, int | float):
        yield from of_number(value, schema, at)


def is_a(value, kind):
    return isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def of_object(value, schema, at):
    known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    for name in schema.get("required", []):
        if name not in value:
            yield f"{at} has no {name}"
    for name, one in value.items():
        if name in known:
            yield from problems(one, known[name], f"{at}.{name}")
        elif others is False:
            yield f"{at} has {name}"
        else:
            yield from problems(one, others, f"{at}.{name}")


def of_number(value, schema, at):
    inside = schema.get("minimum", value) <= value <= schema.get("maximum", value)
    if not inside or value <= schema.get("exclusiveMinimum", float("-inf")):
        yield f"{at} is outside its bounds"
