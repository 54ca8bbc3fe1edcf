"""The OpenRPC document, generated from the typed definitions (https://spec.open-rpc.org, 1.3).

It is imported when a host asks for it, because it brings the examples with it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from mlx_stdio import __version__
from mlx_stdio.errors import CODES, EngineError
from mlx_stdio.protocol.base import Result
from mlx_stdio.protocol.examples import EXAMPLES, NOTIFICATION_EXAMPLES, request_of
from mlx_stdio.protocol.methods import METHODS, Method
from mlx_stdio.protocol.notifications import NOTIFICATIONS

_REF = "#/components/schemas/{name}"
_VERSION = "1.3.2"
_EVERY_REQUEST = (
    "invalidRequest",
    "invalidParams",
    "internalError",
    "cancelled",
    "engineFault",
    "shuttingDown",
)


@cache
def openrpc_document() -> dict[str, Any]:
    """Every method, notification and error, with JSON Schema for what they carry.

    To be read only: it is made once, in tens of milliseconds that the reader of stdin waits for.
    """
    types: list[Any] = [m.params for m in METHODS.values()]
    types += [m.result for m in METHODS.values() if m.result is not None]
    types += NOTIFICATIONS.values()
    _, schemas = msgspec.json.schema_components(types, ref_template=_REF)
    _require_what_is_always_there(Result, schemas)
    return {
        "openrpc": _VERSION,
        "info": _info(),
        "methods": [_method(method, schemas) for method in METHODS.values()],
        "x-notifications": [
            {
                "name": name,
                "summary": _summary(kind),
                "params": {"$ref": _REF.format(name=kind.__name__)},
                "examples": [
                    _pairing(name, msgspec.to_builtins(NOTIFICATION_EXAMPLES[name])),
                ],
            }
            for name, kind in NOTIFICATIONS.items()
        ],
        "components": {
            "schemas": schemas,
            "errors": {
                kind: {"code": code, "message": kind, "data": {"kind": kind}}
                for kind, code in CODES.items()
            },
        },
    }


def _require_what_is_always_there(kind: type[Result], schemas: dict[str, Any]) -> None:
    """A member with a default is one that a host may leave out, but a result may still send it."""
    if kind.__name__ in schemas and not kind.__struct_config__.omit_defaults:
        schema = schemas[kind.__name__]
        schema["required"] = list(schema["properties"])
    for more in kind.__subclasses__():
        _require_what_is_always_there(more, schemas)


def _info() -> dict[str, Any]:
    return {
        "title": "mlx-stdio",
        "version": __version__,
        "description": "JSON-RPC 2.0 on stdin and stdout, one message a line; see protocol.md.",
        "license": {"name": "MIT"},
    }


def _method(method: Method, schemas: dict[str, Any]) -> dict[str, Any]:
    schema = schemas[method.params.__name__]
    required = schema.get("required", [])
    row: dict[str, Any] = {
        "name": method.name,
        "summary": method.summary,
        "paramStructure": "by-name",
        "params": [
            {
                "name": name,
                "required": name in required,
                "schema": value,
                **({"description": value["description"]} if "description" in value else {}),
            }
            # OpenRPC wants the required ones first.
            for name, value in sorted(
                schema["properties"].items(), key=lambda item: item[0] not in required
            )
        ],
    }
    row["examples"] = [_example(method)]
    if method.notification:
        return row
    (result,), _ = msgspec.json.schema_components([method.result], ref_template=_REF)
    row["result"] = {"name": "result", "schema": result}
    row["errors"] = [
        {"$ref": f"#/components/errors/{kind}"} for kind in (*_EVERY_REQUEST, *method.errors)
    ]
    if not method.built:
        row["x-built"] = False
    return row


def _example(method: Method) -> dict[str, Any]:
    """An example pairing object: params, and the result, which a notification has not.

    OpenRPC has no form for a call that ends with an error: it stands under `x-error`.
    """
    pairing = _pairing(method.name, request_of(method.name).get("params", {}))
    if method.notification:
        return pairing
    result = EXAMPLES[method.name].result
    if isinstance(result, EngineError):
        pairing["description"] = f"Ends with the error {result.code}, `{result.kind}`."
        pairing["x-error"] = result.to_wire()
        return pairing
    value = msgspec.to_builtins(result)
    if method.name == "rpc.discover":
        # The document cannot hold itself.
        pairing["description"] = "Shortened: the methods are left out."
        value = {"openrpc": _VERSION, "info": _info(), "methods": []}
    pairing["result"] = {"name": "result", "value": value}
    return pairing


def _pairing(name: str, params: dict[str, Any]) -> dict[str, Any]:
    members = [{"name": member, "value": value} for member, value in params.items()]
    return {"name": name, "params": members}


def _summary(kind: type) -> str:
    return (kind.__doc__ or "").split(": ", 1)[-1].strip()
