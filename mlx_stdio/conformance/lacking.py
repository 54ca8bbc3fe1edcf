"""What an engine may lack (protocol.md, 5.13): a request for it is answered with `unsupported`."""

from __future__ import annotations

from typing import Any, Final

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
        "_meta",
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


def may_lack(request: Any) -> bool:
    """Whether a request asks for something that not every engine has."""
    method, params = request.get("method"), request.get("params")
    if method != "generate":
        return method not in REQUIRED
    return isinstance(params, dict) and not params.keys() <= REQUIRED_PARAMS
