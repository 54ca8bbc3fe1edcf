"""A small JSON Schema checker for what `rpc.discover` gives; it refuses keywords it does not know.

Objects that list their members are closed: a member that the schema does not name is an error,
because a host's author reads the schema as the whole truth.
"""

from __future__ import annotations

from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_NOTES = {"title", "description", "default"}
_RULES = {"type", "enum", "anyOf", "properties", "required", "additionalProperties", "items"}
_LIMITS = {"minimum", "maximum", "exclusiveMinimum", "minLength", "minItems", "maxItems"}


class MismatchError(AssertionError):
    """A value that its schema does not allow."""


def resolve(document: Any, reference: str) -> Any:
    """What a `$ref` points at."""
    assert reference.startswith("#/")
    found = document
    for part in reference[2:].split("/"):
        found = found[part]
    return found


def check(document: Any, schema: dict[str, Any], value: Any, path: str = "$") -> None:
    """Check a value.

    Raises:
        MismatchError: with the path of the offence.
    """

    def demand(holds: bool, what: str) -> None:
        if not holds:
            raise MismatchError(f"{path}: {what}: {value!r}")

    if "$ref" in schema:
        check(document, resolve(document, schema["$ref"]), value, path)
        return
    assert schema.keys() <= _NOTES | _RULES | _LIMITS, schema.keys()
    if "anyOf" in schema:
        demand(any(fits(document, option, value) for option in schema["anyOf"]), "fits no option")
    if "enum" in schema:
        demand(value in schema["enum"], f"not one of {schema['enum']}")
    if "type" in schema:
        right = isinstance(value, _TYPES[schema["type"]])
        if isinstance(value, bool):
            right = schema["type"] == "boolean"
        demand(right, f"not of type {schema['type']}")
    _check_limits(schema, value, demand)
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            check(document, schema["items"], item, f"{path}[{index}]")
    if isinstance(value, dict):
        known = schema.get("properties", {})
        demand(set(schema.get("required", [])) <= value.keys(), "a member is missing")
        others = schema.get("additionalProperties", not known)
        for name, member in value.items():
            if name in known:
                check(document, known[name], member, f"{path}.{name}")
            elif isinstance(others, dict):
                check(document, others, member, f"{path}.{name}")
            else:
                demand(others, f"`{name}` is not in the schema")


def _check_limits(schema: dict[str, Any], value: Any, demand: Any) -> None:
    if isinstance(value, (int, float)):
        demand(value >= schema.get("minimum", value), "too small")
        demand(value <= schema.get("maximum", value), "too large")
        demand("exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"], "too small")
    elif isinstance(value, str):
        demand(len(value) >= schema.get("minLength", 0), "too short")
    elif isinstance(value, list):
        demand(len(value) >= schema.get("minItems", 0), "too few")
        demand(len(value) <= schema.get("maxItems", len(value)), "too many")


def fits(document: Any, schema: dict[str, Any], value: Any) -> bool:
    """Whether a value is allowed."""
    try:
        check(document, schema, value)
    except MismatchError:
        return False
    return True
