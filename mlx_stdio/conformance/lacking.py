"""What an engine may lack (protocol.md, 5.13), and answers with `unsupported`."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any, Final

from msgspec.structs import fields

from mlx_stdio.protocol.methods import METHODS

REQUIRED: Final = frozenset(
    {
        "initialize",
        "ping",
        "shutdown",
        "rpc.discover",
        "engine/status",
        "models/list",
        "models/load",
        "models/unload",
        "generate",
    }
)
"""The methods that every engine has."""

REQUIRED_PARAMS: Final = frozenset(
    {
        "model",
        "prompt",
        "maxTokens",
        "temperature",
        "seed",
        "stop",
        "ignoreEos",
        "stream",
        "streamToken",
        "timeoutMs",
        "priority",
    }
)
"""The params of `generate` that work in every engine."""

_WRONG: Final = frozenset({-32700, -32600, -32601, -32602})
_SHUTTING_DOWN: Final = 1009

OPTIONAL: Final = {name for name, row in METHODS.items() if not row.notification} - REQUIRED
"""The methods that an engine may lack."""

_KNOWN_PARAMS: Final = {field.encode_name for field in fields(METHODS["generate"].params)}
_OPTIONAL_PARAMS: Final = _KNOWN_PARAMS - REQUIRED_PARAMS - {"_meta"}


def errors_before(request: Any) -> AbstractSet[int] | None:
    """What an engine says rather than that it lacks what a request asks for (11.8).

    Returns:
        codes; None if it asks for nothing that version 1 has, but not every engine. What version 1
        does not have is wrong, which every engine has to say.
    """
    method, params = request.get("method"), request.get("params")
    if not isinstance(method, str):
        return None
    if method in OPTIONAL:
        return _WRONG
    if method != "generate" or not isinstance(params, dict) or not params.keys() <= _KNOWN_PARAMS:
        return None
    return None if _OPTIONAL_PARAMS.isdisjoint(params) else _WRONG | {_SHUTTING_DOWN}
