"""The examples of the reference: of the typed structures, checked, shown as they travel.

An example that the definitions do not allow ends the generator, and so `make lint`.
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from mlx_stdio.errors import EngineError
from mlx_stdio.protocol.examples import EXAMPLES, NOTIFICATION_EXAMPLES, request_of
from mlx_stdio.protocol.methods import METHODS, Method
from mlx_stdio.protocol.notifications import NOTIFICATIONS
from mlx_stdio.protocol.openrpc import openrpc_document
from mlx_stdio.protocol.validate import read_params

_LONG = 200
"""Characters of a member of the OpenRPC document beyond which the page leaves it out."""


def method_example(method: Method) -> list[str]:
    """Lines of Markdown: the request and the reply of one method.

    Raises:
        EngineError, msgspec.ValidationError: the example is not what the method takes or gives.
    """
    request = request_of(method.name)
    read_params(method, request.get("params"))
    lines = ["```", f"> {_json(request)}"]
    if not method.notification:
        lines.append(f"< {_reply(method)}")
    return [*lines, "```", ""]


def notification_example(name: str) -> list[str]:
    """Lines of Markdown: a notification of the engine.

    Raises:
        msgspec.ValidationError: the example is not what the notification carries.
    """
    params = msgspec.to_builtins(NOTIFICATION_EXAMPLES[name])
    _check(params, NOTIFICATIONS[name])
    return ["```", f"< {_json({'jsonrpc': '2.0', 'method': name, 'params': params})}", "```", ""]


def check_completeness() -> None:
    """Every method and every notification has an example, and nothing else has.

    Raises:
        ValueError: names what has none, or has no definition.
    """
    wrong = EXAMPLES.keys() ^ METHODS.keys()
    wrong |= NOTIFICATION_EXAMPLES.keys() ^ NOTIFICATIONS.keys()
    if wrong:
        raise ValueError(f"examples and definitions differ in {sorted(wrong)}")


def _reply(method: Method) -> str:
    result = EXAMPLES[method.name].result
    if isinstance(result, EngineError):
        if result.kind not in method.errors:
            raise ValueError(f"`{method.name}` does not end with {result.kind}")
        return _json({"jsonrpc": "2.0", "id": 1, "error": result.to_wire()})
    if method.name == "rpc.discover":
        return _shortened(openrpc_document())
    value = msgspec.to_builtins(result)
    _check(value, method.result)
    return _json({"jsonrpc": "2.0", "id": 1, "result": value})


def _check(value: Any, kind: Any) -> None:
    """Values and types by `msgspec`, and that no member is lost, which it would pass over."""
    again = msgspec.to_builtins(msgspec.convert(value, kind, strict=True))
    if again != value:
        raise ValueError(f"an example is not what the definitions make of it: {again} != {value}")


def _json(message: dict[str, Any]) -> str:
    return orjson.dumps(message).decode()


def _shortened(document: dict[str, Any]) -> str:
    """A reply that gives a document, with `…` for what is long."""
    result = {
        name: value if len(orjson.dumps(value)) <= _LONG else f"…{type(value).__name__}"
        for name, value in document.items()
    }
    line = _json({"jsonrpc": "2.0", "id": 1, "result": result})
    return line.replace('"…dict"', "{…}").replace('"…list"', "[…]")
