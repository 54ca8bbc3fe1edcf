"""Writes the reference part of `protocol.md` from the typed definitions.

`python -m tools.reference` rewrites the file between its two markers; with `--check` it changes
nothing and fails if the file is stale. `make docs` and `make lint` call it. What stands before the
markers, the numbered clauses, is written by hand; `tools/clauses.py` checks it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlx_stdio.errors import CODES
from mlx_stdio.protocol.methods import METHODS
from mlx_stdio.protocol.notifications import NOTIFICATIONS
from mlx_stdio.protocol.openrpc import openrpc_document
from tools.reference_examples import check_completeness, method_example, notification_example

FILE = Path(__file__).parent.parent / "protocol.md"
BEGIN = "<!-- begin of the generated reference: `make docs` -->"
END = "<!-- end of the generated reference -->"

_INTRODUCTION = (
    "In the examples, `>` is what the host writes and `<` what the engine writes, each one a line; "
    "notifications between the two are left out."
)
_WHEN = {
    "parseError": "Not JSON (or nested deeper than 1024), or headers that are none. `id` is null.",
    "invalidRequest": "Not a request: wrong envelope, wrong id, an id in flight, or a message that "
    "is too long (`data.maxMessageBytes`).",
    "methodNotFound": "No such method.",
    "invalidParams": "`data.path` says where.",
    "internalError": "A request failed in a way that has no other name; the engine goes on.",
    "cancelled": "By `$/cancelRequest`. `data.partial` has `text` and `completionTokens`.",
    "modelNotFound": "No such folder, nor such an id in the local cache.",
    "modelLoadFailed": "The folder is incomplete or broken, or its architecture unknown.",
    "contextLengthExceeded": "`data.promptTokens`, `data.contextLength`.",
    "overloaded": "The queue is full; `data.retryAfterMs`.",
    "outOfMemory": "`data` has the figures: `neededBytes`, `limitBytes`, and what has to stay "
    "(`pinnedBytes`, for a request's KV `weightsBytes`). Nothing was given up for it.",
    "unsupported": "Defined, but this build or this model cannot do it. Before any work.",
    "deadlineExceeded": "`timeoutMs` has passed. `data.partial` as for `cancelled`.",
    "engineFault": "The engine as a whole failed; `engine/fatal` came before, the exit follows.",
    "shuttingDown": "After `shutdown`, or in flight when the engine leaves (`data.partial`).",
}


def reference() -> str:
    """The reference in Markdown: methods, shared parameters, structures, notifications, errors."""
    document = openrpc_document()
    schemas: dict[str, Any] = document["components"]["schemas"]
    shared = _shared_properties(schemas)
    check_completeness()
    of_every = _errors_of_every_request(document)
    lines = ["### Methods", "", _INTRODUCTION, ""]
    lines += [f"Every request can end with {_names(of_every)}; what else is named with it.", ""]
    for method in METHODS.values():
        params = schemas[method.params.__name__]
        mine = {k: v for k, v in params["properties"].items() if k != "_meta"}
        generating = shared.keys() <= mine.keys()
        if generating:
            mine = {k: v for k, v in mine.items() if k not in shared}
        marks = " (not built)" if not method.built else ""
        marks += " (notification)" if method.notification else ""
        lines += [f"#### `{method.name}`{marks}", "", method.summary, ""]
        lines += _table(mine, params.get("required", []))
        if generating:
            lines += ["and the parameters of [generation](#generation-parameters).", ""]
        if not method.notification:
            lines += [f"Result: {_result(method.result)}", ""]
            more = f"{_names(method.errors)}, and those" if method.errors else "those"
            lines += [f"Errors: {more} of every request.", ""]
        lines += method_example(method)
    lines += ["### Generation parameters", ""]
    lines += _table(shared, [])
    lines += ["### Structures", ""]
    for name in sorted(_structures(schemas)):
        schema = schemas[name]
        lines += [f"#### {name}", "", schema.get("description", ""), ""]
        lines += _table(schema.get("properties", {}), schema.get("required", []))
    lines += ["### Notifications from the engine", ""]
    for name, kind in NOTIFICATIONS.items():
        schema = schemas[kind.__name__]
        lines += [f"#### `{name}`", "", schema["description"].split(": ", 1)[-1].capitalize(), ""]
        lines += _table(schema["properties"], schema.get("required", []))
        lines += notification_example(name)
    lines += ["### Errors", "", "| code | `data.kind` | when |", "|---|---|---|"]
    lines += [f"| {code} | `{kind}` | {_WHEN[kind]} |" for kind, code in CODES.items()]
    return "\n".join(lines)


def _errors_of_every_request(document: dict[str, Any]) -> list[str]:
    """The kinds that the document gives for each method that has a reply."""
    rows = [method["errors"] for method in document["methods"] if "errors" in method]
    kinds = [[row["$ref"].rsplit("/", 1)[-1] for row in errors] for errors in rows]
    return [kind for kind in kinds[0] if all(kind in other for other in kinds)]


def _names(kinds: Iterable[str]) -> str:
    return ", ".join(f"`{kind}`" for kind in kinds)


def _shared_properties(schemas: dict[str, Any]) -> dict[str, Any]:
    """What the three generating methods have in common."""
    names = ("GenerateParams", "ChatParams", "InfillParams")
    first, *others = (schemas[name]["properties"] for name in names)
    return {
        name: schema
        for name, schema in first.items()
        if name != "_meta" and all(name in other for other in others)
    }


def _structures(schemas: dict[str, Any]) -> set[str]:
    methods = {method.params.__name__ for method in METHODS.values()}
    notes = {kind.__name__ for kind in NOTIFICATIONS.values()}
    return schemas.keys() - methods - notes


def _result(result: Any) -> str:
    if result is type(None):
        return "`null`."
    name = getattr(result, "__name__", "")
    return "an object." if name == "dict" else f"[{name}](#{name.lower()})."


def _table(properties: dict[str, Any], required: list[str]) -> list[str]:
    rows = {name: schema for name, schema in properties.items() if name != "_meta"}
    if not rows:
        return []
    lines = ["| member | type | |", "|---|---|---|"]
    for name, schema in rows.items():
        label = f"`{name}`" if name in required else f"`{name}?`"
        lines.append(f"| {label} | {_type(schema)} | {_note(schema)} |")
    return [*lines, ""]


def _note(schema: dict[str, Any]) -> str:
    notes = [schema["description"]] if "description" in schema else []
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    bounds = dict.fromkeys(bound for option in options for bound in _bounds(option))
    notes += [f"({', '.join(bounds)})"] if bounds else []
    return " ".join(notes).replace("|", "\\|")


def _bounds(schema: dict[str, Any]) -> list[str]:
    """All that a value may be refused for beside its type: clause 3.13 sends readers here."""
    found = []
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum")
    if low is not None or high is not None:
        sign = "above" if "exclusiveMinimum" in schema else "from"
        parts = [f"{sign} {low}"] * (low is not None) + [f"to {high}"] * (high is not None)
        found.append(" ".join(parts))
    least = schema.get("minLength", schema.get("minItems", 0))
    if least:
        found.append("not empty" if least == 1 else f"at least {least} long")
    most = schema.get("maxLength", schema.get("maxItems"))
    if most is not None:
        found.append(f"at most {most}")
    for within in ("items", "additionalProperties"):
        if isinstance(inner := schema.get(within), dict):
            found += [f"each {bound}" for bound in _bounds(inner)]
    return found


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return " \\| ".join(f'`"{value}"`' for value in schema["enum"] if value is not None)
    if "anyOf" in schema:
        parts = [_type(option) for option in schema["anyOf"] if option.get("type") != "null"]
        return " \\| ".join(dict.fromkeys(parts))
    kind = schema.get("type", "any")
    if kind == "array":
        return f"{_type(schema.get('items', {}))}[]"
    return str(kind)


def main() -> int:
    """Rewrite or check the file; the exit code."""
    text = FILE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    fresh = f"{head}{BEGIN}\n\n{reference()}\n\n{END}{tail}"
    if "--check" in sys.argv:
        if fresh != text:
            print("protocol.md is stale: run `make docs`", file=sys.stderr)
        return int(fresh != text)
    FILE.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
