"""Matchers: what a transcript expects of a message where it varies.

A pattern is JSON. Whatever is no matcher stands for itself, and objects are closed: a member that
the pattern does not have is an error unless it has `"$rest": true`. A matcher is an object whose
only member begins with `$`. Names that a pattern binds are there only when all of it has matched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

ABSENT: Final = object()
"""The value of a member that is not there."""

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}


class Mismatch(Exception):  # noqa: N818 - it is an answer
    """A value is not what the pattern says; the text tells where, and why."""


class Bindings:
    """The names bound so far, and the texts that were streamed for each request."""

    def __init__(self, names: Mapping[str, Any], deltas: Mapping[Any, str]) -> None:
        self.names = dict(names)
        self.deltas = deltas


def match(pattern: Any, value: Any, bindings: Bindings) -> dict[str, Any]:
    """Check a value.

    Returns:
        the names that are bound afterwards.

    Raises:
        Mismatch: it does not fit.
    """
    tried = Bindings(bindings.names, bindings.deltas)
    _match(pattern, value, "$", tried)
    return tried.names


def fill(template: Any, bindings: Bindings) -> Any:
    """A message to send: `$ref` is replaced by what was bound.

    Raises:
        Mismatch: nothing was.
    """
    if isinstance(template, dict):
        if template.keys() == {"$ref"}:
            if template["$ref"] not in bindings.names:
                raise Mismatch(f"`{template['$ref']}` is not bound")
            return bindings.names[template["$ref"]]
        return {name: fill(value, bindings) for name, value in template.items()}
    if isinstance(template, list):
        return [fill(value, bindings) for value in template]
    return template


def _match(pattern: Any, value: Any, path: str, bindings: Bindings) -> None:
    if isinstance(pattern, dict):
        named = [name for name in pattern if name in _MATCHERS]
        if named:
            (name,) = named
            _MATCHERS[name](pattern[name], value, path, bindings)
        else:
            _match_object(pattern, value, path, bindings)
    elif isinstance(pattern, list):
        if not isinstance(value, list) or len(value) != len(pattern):
            raise _wrong(path, f"an array of {len(pattern)}", value)
        for at, part in enumerate(pattern):
            _match(part, value[at], f"{path}[{at}]", bindings)
    elif value is ABSENT or not _equal(pattern, value):
        raise _wrong(path, _spelt(pattern), value)


def _match_object(pattern: dict[str, Any], value: Any, path: str, bindings: Bindings) -> None:
    if not isinstance(value, dict):
        raise _wrong(path, "an object", value)
    is_open = pattern.get("$rest") is True
    for name, part in pattern.items():
        if name != "$rest":
            _match(part, value.get(name, ABSENT), f"{path}.{name}", bindings)
    if not is_open and (more := sorted(value.keys() - pattern.keys())):
        raise Mismatch(f"{path}: a member that is not expected, `{more[0]}`")


def _any(_: Any, value: Any, path: str, __: Bindings) -> None:
    if value is ABSENT:
        raise _wrong(path, "anything", value)


def _type(name: str, value: Any, path: str, _: Bindings) -> None:
    wrong_bool = isinstance(value, bool) and name != "boolean"
    if wrong_bool or not isinstance(value, _TYPES[name]):
        raise _wrong(path, f"of type {name}", value)


def _regex(expression: str, value: Any, path: str, _: Bindings) -> None:
    if not isinstance(value, str) or re.search(expression, value) is None:
        raise _wrong(path, f"a string with {_spelt(expression)}", value)


def _number(kind: str) -> Callable[[dict[str, float], Any, str, Bindings], None]:
    def check(bounds: dict[str, float], value: Any, path: str, bindings: Bindings) -> None:
        _type(kind, value, path, bindings)
        low, high = bounds.get("min", float("-inf")), bounds.get("max", float("inf"))
        if not low <= value <= high:
            ends = [f"at least {low}"] if "min" in bounds else []
            ends += [f"at most {high}"] if "max" in bounds else []
            raise _wrong(path, " and ".join(ends), value)

    return check


def _absent(_: Any, value: Any, path: str, __: Bindings) -> None:
    if value is not ABSENT:
        raise _wrong(path, "nothing", value)


def _optional(pattern: Any, value: Any, path: str, bindings: Bindings) -> None:
    if value is not ABSENT:
        _match(pattern, value, path, bindings)


def _bind(name: str, value: Any, path: str, bindings: Bindings) -> None:
    _any(None, value, path, bindings)
    bindings.names[name] = value


def _ref(name: str, value: Any, path: str, bindings: Bindings) -> None:
    bound = bindings.names.get(name, ABSENT)
    if bound is ABSENT or value is ABSENT or not _equal(bound, value):
        raise _wrong(path, f"`{name}`, which is {_spelt(bound)}", value)


def _deltas(request_id: Any, value: Any, path: str, bindings: Bindings) -> None:
    text = bindings.deltas.get(request_id, "")
    if value != text:
        raise _wrong(path, f"the text that was streamed, {_spelt(text)}", value)


def _all(patterns: list[Any], value: Any, path: str, bindings: Bindings) -> None:
    for pattern in patterns:
        _match(pattern, value, path, bindings)


def _one_of(patterns: list[Any], value: Any, path: str, bindings: Bindings) -> None:
    for pattern in patterns:
        before = dict(bindings.names)
        try:
            _match(pattern, value, path, bindings)
        except Mismatch:
            bindings.names = before
        else:
            return
    raise _wrong(path, f"one of {_spelt(patterns)}", value)


def _each(pattern: Any, value: Any, path: str, bindings: Bindings) -> None:
    _type("array", value, path, bindings)
    for at, part in enumerate(value):
        _match(pattern, part, f"{path}[{at}]", bindings)


def _contains(patterns: list[Any], value: Any, path: str, bindings: Bindings) -> None:
    _type("array", value, path, bindings)
    for pattern in patterns:
        _one_of_values(pattern, value, path, bindings)


def _begins(patterns: list[Any], value: Any, path: str, bindings: Bindings) -> None:
    _type("array", value, path, bindings)
    _match(patterns, value[: len(patterns)], path, bindings)


def _any_order(patterns: list[Any], value: Any, path: str, bindings: Bindings) -> None:
    _type("array", value, path, bindings)
    if len(value) != len(patterns):
        raise _wrong(path, f"an array of {len(patterns)}", value)
    rest = list(value)
    for pattern in patterns:
        del rest[_one_of_values(pattern, rest, path, bindings)]


def _one_of_values(pattern: Any, values: list[Any], path: str, bindings: Bindings) -> int:
    """Where the first value is that fits."""
    for at, value in enumerate(values):
        before = dict(bindings.names)
        try:
            _match(pattern, value, path, bindings)
        except Mismatch:
            bindings.names = before
        else:
            return at
    raise _wrong(path, f"an array with {_spelt(pattern)}", values)


def _equal(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same: `true` is no number, 1 and 1.0 are one."""
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[name], other[name]) for name in one)
    return bool(one == other)


def _wrong(path: str, wanted: str, value: Any) -> Mismatch:
    came = "nothing is there" if value is ABSENT else f"{_spelt(value)} came"
    return Mismatch(f"{path}: expected {wanted}; {came}")


def _spelt(value: Any) -> str:
    """As JSON, and not at length."""
    if value is ABSENT:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"


_MATCHERS: Final[dict[str, Callable[[Any, Any, str, Bindings], None]]] = {
    "$any": _any,
    "$type": _type,
    "$regex": _regex,
    "$int": _number("integer"),
    "$number": _number("number"),
    "$absent": _absent,
    "$optional": _optional,
    "$bind": _bind,
    "$ref": _ref,
    "$deltas": _deltas,
    "$all": _all,
    "$oneOf": _one_of,
    "$each": _each,
    "$begins": _begins,
    "$contains": _contains,
    "$anyOrder": _any_order,
}
