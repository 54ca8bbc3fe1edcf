"""JSON-RPC 2.0 envelopes: what a message is, before anyone asks what its method means.

`parse` never raises: each fault becomes an `Invalid` that carries the error and the id to answer
with, so that one bad member of a batch costs only itself. Source: JSON-RPC 2.0 specification,
sections 4 to 6, narrowed as `protocol.md` says (ids are strings or integers).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import orjson

from mlx_stdio.errors import EngineError

RequestId = str | int

_MEMBERS: Final = frozenset({"jsonrpc", "id", "method", "params"})
_ABSENT: Final = object()

MAX_BATCH: Final = 16384
"""Members of a batch. Each may cost a reply fifty times its own length, and the reader its time."""


class Call(NamedTuple):
    """A request that wants one reply."""

    id: RequestId
    method: str
    params: Any


class Notification(NamedTuple):
    """A message that never gets a reply, not even an error."""

    method: str
    params: Any


class Invalid(NamedTuple):
    """A message that is not a request; answered with `id` (None where it could not be read)."""

    id: RequestId | None
    error: EngineError


class Ignored(NamedTuple):
    """A response to a request that we never send; replying to it could start a loop."""


Message = Call | Notification | Invalid | Ignored


def parse(line: bytes) -> Message | list[Message]:
    """Read one framed message.

    Args:
        line: the bytes of one message, without its frame.

    Returns:
        one message, or a list for a batch (never empty: an empty batch is one `Invalid`).
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return Invalid(None, EngineError("parseError", f"not JSON: {error}"))
    if isinstance(value, list):
        if not value:
            return Invalid(None, EngineError("invalidRequest", "an empty batch"))
        if len(value) > MAX_BATCH:
            text = f"a batch of more than {MAX_BATCH} messages"
            return Invalid(None, EngineError("invalidRequest", text))
        return [_message(member) for member in value]
    return _message(value)


def _message(value: Any) -> Message:
    if not isinstance(value, dict):
        return Invalid(None, EngineError("invalidRequest", "a message must be an object"))
    raw_id = value.get("id", _ABSENT)
    known_id = raw_id if _is_id(raw_id) else None
    if "method" not in value and ("result" in value or "error" in value):
        return Ignored()

    def invalid(message: str) -> Invalid:
        return Invalid(known_id, EngineError("invalidRequest", message))

    if value.get("jsonrpc") != "2.0":
        return invalid('`jsonrpc` must be "2.0"')
    method = value.get("method")
    if not isinstance(method, str):
        return invalid("`method` must be a string")
    if raw_id is not _ABSENT and known_id is None:
        return invalid("`id` must be a string or an integer")
    if unknown := value.keys() - _MEMBERS:
        return invalid(f"unknown member `{min(unknown)}`")
    params = value.get("params")
    if params is not None and not isinstance(params, (dict, list)):
        return invalid("`params` must be an object")
    return Notification(method, params) if known_id is None else Call(known_id, method, params)


def _is_id(value: Any) -> bool:
    # `bool` is an `int` in Python; JSON's `true` is no id.
    return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))


def result_bytes(request_id: RequestId, result: Any) -> bytes:
    """A successful response, without a frame. `result`: JSON types or typed structures."""
    return _dump({"jsonrpc": "2.0", "id": request_id, "result": result})


def error_bytes(request_id: RequestId | None, error: EngineError) -> bytes:
    """An error response, without a frame."""
    return _dump({"jsonrpc": "2.0", "id": request_id, "error": error.to_wire()})


def notification_bytes(method: str, params: Any) -> bytes:
    """A notification, without a frame."""
    return _dump({"jsonrpc": "2.0", "method": method, "params": params})


def _dump(value: Any) -> bytes:
    return orjson.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(value)
