"""From JSON values to typed parameters, with the path of the first offence."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from mlx_stdio.errors import EngineError
from mlx_stdio.protocol.base import Params
from mlx_stdio.protocol.methods import Method

_PATH = re.compile(r" - at (?:`key` in )?`([^`]+)`$")
_MEMBER = re.compile(r"(?:unknown|missing required) field `(.*?)`(?: - at `|$)", re.DOTALL)


def read_params(method: Method, params: Any) -> Params:
    """Check and type a request's parameters.

    Args:
        method: a row of the table.
        params: the envelope's `params`; None when absent.

    Raises:
        EngineError: `invalidParams`, with the offence's path in `data.path`.
    """
    if params is None:
        params = {}
    if not isinstance(params, dict):
        raise EngineError("invalidParams", "`params` must be an object", path="$")
    try:
        return msgspec.convert(params, method.params, str_keys=True)
    except msgspec.ValidationError as error:
        message = str(error)
        found = _PATH.search(message)
        path = found.group(1) if found else "$"
        if member := _MEMBER.search(message):
            path += _step(member.group(1))
        raise EngineError("invalidParams", message, path=path) from None


def _step(member: str) -> str:
    """A member in JSONPath's spelling: a dot is for names, any other text stands in brackets."""
    if re.fullmatch(r"[A-Za-z_]\w*", member):
        return f".{member}"
    text = member.replace("\\", "\\\\").replace("'", "\\'")
    return f"['{text}']"
