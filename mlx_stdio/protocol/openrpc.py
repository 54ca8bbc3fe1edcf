"""The OpenRPC document, generated from the typed definitions (https://spec.open-rpc.org, 1.3)."""

from __future__ import annotations

from typing import Any

import msgspec

from mlx_stdio import __version__
from mlx_stdio.errors import CODES
from mlx_stdio.protocol.methods import METHODS, Method
from mlx_stdio.protocol.notifications import NOTIFICATIONS

_REF = "#/components/schemas/{name}"
_EVERY_REQUEST = ("invalidRequest", "invalidParams", "cancelled", "engineFault", "shuttingDown")


def openrpc_document() -> dict[str, Any]:
    """Every method, notification and error, with JSON Schema for what they carry."""
    types: list[Any] = [m.params for m in METHODS.values()]
    types += [m.result for m in METHODS.values() if m.result is not None]
    types += NOTIFICATIONS.values()
    _, schemas = msgspec.json.schema_components(types, ref_template=_REF)
    return {
        "openrpc": "1.3.2",
        "info": {
            "title": "mlx-stdio",
            "version": __version__,
            "description": "JSON-RPC 2.0 on stdin and stdout, one message a line; see protocol.md.",
            "license": {"name": "MIT"},
        },
        "methods": [_method(method, schemas) for method in METHODS.values()],
        "x-notifications": [
            {
                "name": name,
                "summary": _summary(kind),
                "params": {"$ref": _REF.format(name=kind.__name__)},
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


def _summary(kind: type) -> str:
    return (kind.__doc__ or "").split(": ", 1)[-1].strip()
